"""The options that a user writes on the Pod: check them, and tell what they mean. Pure functions of the view."""

from __future__ import annotations

from dataclasses import replace

from kube_cache import names
from kube_cache.contracts.common import PodView, Policy
from kube_cache.errors import InvalidRequest
from kube_cache.units import parse_duration, parse_priority

_CHOICES = {
    "on_timeout": (names.ON_TIMEOUT_ANNOTATION, ("keep", "release")),
    "verify": (names.VERIFY_ANNOTATION, ("quick", "full")),
}


def check(view: PodView) -> None:
    """Raises InvalidRequest, naming the annotation, the value and what may be written instead."""
    if view.max_gate_time:
        parse_duration(view.max_gate_time, name=f"annotation {names.MAX_GATE_TIME_ANNOTATION}")
    parse_priority(view.priority, name=f"annotation {names.PRIORITY_ANNOTATION}")
    for field, (annotation, choices) in _CHOICES.items():
        value = getattr(view, field)
        if value and value not in choices:
            raise InvalidRequest(f"annotation {annotation}: {value!r} is not an option; write {' or '.join(choices)}")


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
    """Whether the user changed the request: any field but the action, which is a command, and the gates."""
    return replace(before, action="", gated=True, foreign_gates=[]) != replace(
        after, action="", gated=True, foreign_gates=[]
    )


def verifies_fully(view: PodView) -> bool:
    """Whether every byte of a hit is read again before the release."""
    return view.verify == "full"


def releases_on_timeout(view: PodView) -> bool:
    """Whether the Pod starts without its data when its gate time is over."""
    return view.on_timeout == "release"
