"""The options that a user writes on the Pod: check them, and tell what they mean. Pure functions of the view."""

from __future__ import annotations

import re
from dataclasses import replace

from kube_cache import names
from kube_cache.contracts.common import PodView, Policy
from kube_cache.errors import InvalidRequest, UnsafeMount
from kube_cache.units import parse_duration, parse_priority

MAX_GROUP_SIZE = 1000
"""Temporal keeps at most 2,000 signals of one workflow on their way at once."""
_GROUP = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CHOICES = {
    "on_timeout": (names.ON_TIMEOUT_ANNOTATION, ("keep", "release")),
    "verify": (names.VERIFY_ANNOTATION, ("quick", "full")),
    "on_stuck": (names.ON_STUCK_ANNOTATION, ("keep", "evict")),
    "require": (names.REQUIRE_ANNOTATION, ("checksum",)),
    "neighbours": (names.NEIGHBOURS_ANNOTATION, ("allow", "forbid")),
}


def check(view: PodView) -> None:
    """Raises InvalidRequest, naming the annotation, the value and what may be written instead, and UnsafeMount."""
    if view.unsafe_mount:
        raise UnsafeMount(view.unsafe_mount)
    if view.max_gate_time:
        parse_duration(view.max_gate_time, name=f"annotation {names.MAX_GATE_TIME_ANNOTATION}")
    parse_priority(view.priority, name=f"annotation {names.PRIORITY_ANNOTATION}")
    _check_group(view)
    for field, (annotation, choices) in _CHOICES.items():
        value = getattr(view, field)
        if value and value not in choices:
            raise InvalidRequest(f"annotation {annotation}: {value!r} is not an option; write {' or '.join(choices)}")


def _check_group(view: PodView) -> None:
    if view.group and not view.group_size:
        raise InvalidRequest(
            f"annotation {names.GROUP_ANNOTATION} needs annotation {names.GROUP_SIZE_ANNOTATION}: the number of Pods of"
            " the group that wait behind our gate"
        )
    if view.group_size and not view.group:
        raise InvalidRequest(
            f"annotation {names.GROUP_SIZE_ANNOTATION} needs annotation {names.GROUP_ANNOTATION}: the name of the group"
        )
    if view.group and not _GROUP.fullmatch(view.group):
        raise InvalidRequest(
            f"annotation {names.GROUP_ANNOTATION}: {view.group!r} is not a name; write at most 63 of a-z, 0-9 and -,"
            " with a letter or digit at both ends"
        )
    if view.group and not 1 <= group_size(view) <= MAX_GROUP_SIZE:
        raise InvalidRequest(
            f"annotation {names.GROUP_SIZE_ANNOTATION}: {view.group_size!r} is not a whole number from 1 to"
            f" {MAX_GROUP_SIZE}; write how many Pods of the group wait behind our gate"
        )


def group_size(view: PodView) -> int:
    """0 for a value that is no number."""
    return int(view.group_size) if _NUMBER.fullmatch(view.group_size) else 0


def priority(view: PodView) -> int:
    """0 for a value that `check` refuses."""
    try:
        return parse_priority(view.priority, name="priority")
    except InvalidRequest:
        return 0


def gate_time_s(view: PodView, policy: Policy) -> float | None:
    """Seconds that the Pod may stay gated; None without a limit, or with one that `check` refuses."""
    limit = policy.max_gate_time_s
    if view.max_gate_time:
        try:
            limit = parse_duration(view.max_gate_time, name="max-gate-time")
        except InvalidRequest:
            return None
    return limit if limit > 0 else None


def differ(before: PodView, after: PodView) -> bool:
    """Whether the user changed the request: any field but the action (a command), gates, node requirements, end."""
    return _request(before) != _request(after)


def _request(view: PodView) -> PodView:
    return replace(view, action="", gated=True, foreign_gates=[], requirements="", deleting=False)


def action(value: str) -> str:
    """The verb of an `action` annotation: `retry-2` is a second `retry`, for an annotation acts when it changes."""
    return value.partition("-")[0]


def next_action(verb: str, value: str) -> str:
    """What to write for the verb to act once more on a Pod whose `action` annotation is `value` now."""
    written, _, number = value.partition("-")
    if written != verb:
        return verb
    return f"{verb}-{int(number) + 1 if number.isdecimal() else 2}"


def requires_checksum(view: PodView, policy: Policy) -> bool:
    """Whether the Pod must not be released onto objects that no checksum of the origin proves."""
    return policy.require_checksum or view.require == "checksum"


def verifies_fully(view: PodView) -> bool:
    """Whether every byte of a hit is read again before the release."""
    return view.verify == "full"


def evicts_stuck(view: PodView) -> bool:
    """Whether the Pod is evicted when it was released and the scheduler finds no place for it."""
    return view.on_stuck == "evict"


def forbids_neighbours(view: PodView) -> bool:
    """Whether a download for the Pod takes every byte from the origin."""
    return view.neighbours == "forbid"


def releases_on_timeout(view: PodView) -> bool:
    """Whether the Pod starts without its data when its gate time is over."""
    return view.on_timeout == "release"
