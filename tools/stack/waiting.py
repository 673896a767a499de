"""Waiting for a condition, and saying what was there instead when it does not come. Nobody sleeps and hopes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_POLL_S = 0.02
_SHOWN = 3000


class NotInTime(AssertionError):
    """The condition did not come true; the message holds the last state seen."""


def until(
    look: Callable[[], T], good: Callable[[T], Any], what: str, timeout_s: float = 30, poll_s: float = _POLL_S
) -> T:
    """Look until it is good, and return what was seen then."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if good(seen):
            return seen
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {timeout_s} s: {what}; last seen:\n{_shown(seen)}")
        time.sleep(poll_s)


def true(look: Callable[[], Any], what: str, timeout_s: float = 30, poll_s: float = _POLL_S) -> Any:
    """Look until the answer is truthy, and return it."""
    return until(look, lambda seen: seen, what, timeout_s, poll_s)


def _shown(seen: object) -> str:
    try:
        text = json.dumps(seen, indent=1, default=str)
    except (TypeError, ValueError):
        text = repr(seen)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
