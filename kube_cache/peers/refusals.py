"""Answers of a member that is alive and does not give the chunk now. Neither counts against the member."""

from __future__ import annotations

from kube_cache.dataset.source import Retry


class MemberBusy(Retry):
    """All upload slots of the member are taken, and so are the places before them."""


class NotYetThere(Retry):
    """The member is getting the chunk, and has held the request for as long as it may."""
