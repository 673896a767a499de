"""The status of a `Prefetch` resource: composed from the workflow's answer, and written only when that is worth it.

Nothing in it grows with the cluster: counts, one message, two conditions. Pure functions.
"""

from __future__ import annotations

from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.prefetch import SCHEDULED, PrefetchPhase, PrefetchStatus
from kube_cache.kube.client import Json
from kube_cache.kube.prefetches import PrefetchResource
from kube_cache.units import cut, format_bytes

ENDED = frozenset({PrefetchPhase.EXPIRED, PrefetchPhase.CANCELLED})
WRITE_EVERY_S = 15.0
"""Between two writes that tell of mere progress, seconds: as on Pods."""
_WORTH_PERCENT = 10
"""Of progress, which are told at once."""
_MAX_MESSAGE = 1024
"""Bytes of a message: that of a failed node names its error, which may be long."""
# A change of anything else waits for its turn.
_AT_ONCE = ("phase", "observedGeneration", "workflow")


def compose(
    resource: PrefetchResource,
    answer: PrefetchStatus | None,
    now: float,
    *,
    problem: tuple[str, str] | None = None,
    next_at: float | None = None,
) -> Json:
    """Return the whole status. now: seconds since the epoch.

    answer: of the workflow; None keeps what was said before, or tells of the schedule. problem: why the workflow does
    not have the specification, as reason and message. next_at: when the schedule begins the next one, in seconds since
    the epoch; 0 = never, None = there is no schedule.
    """
    status = {key: value for key, value in resource.status.items() if key != "conditions"}
    status["workflow"] = names.prefetch_id(resource.namespace, resource.prefetch)
    if answer is not None:
        status |= _progress(answer)
    elif next_at is not None:
        status = _between(status, next_at)
    if problem is None:
        status.pop("nextStart", None)
    if next_at:
        status["nextStart"] = _time(next_at)
    if problem is None:
        status["observedGeneration"] = resource.generation
    elif answer is None:
        status.setdefault("phase", PrefetchPhase.AWAITING_OPERATOR)
        status["message"] = cut(f"{problem[0]}: {problem[1]}", _MAX_MESSAGE)
    ready = answer is not None and answer.phase == PrefetchPhase.READY
    conditions: list[tuple[str, bool, str, str]] = []
    before = _condition(resource.status, "Ready")
    if answer is not None:
        conditions.append(("Ready", ready, answer.phase, answer.message))
    elif next_at is not None:
        conditions.append(("Ready", False, SCHEDULED, status["message"]))
    if problem is None:
        conditions.append(("Applied", True, "Applied", "the workflow has this specification"))
    else:
        conditions.append(("Applied", False, *problem))
    said_before = [before] if before and conditions[0][0] != "Ready" else []  # of the generation that it was said of
    status["conditions"] = said_before + [
        _as_condition(resource, kind, holds, str(reason) or "Starting", message, now)
        for kind, holds, reason, message in conditions
    ]
    return status


def _progress(answer: PrefetchStatus) -> Json:
    return {
        "phase": answer.phase,
        "message": cut(answer.message, _MAX_MESSAGE),
        "percent": answer.percent,
        "nodes": {"ready": answer.ready, "planned": answer.wanted, "matching": answer.matched},
        "data": f"{format_bytes(answer.ready_bytes + answer.partial_bytes)} of {format_bytes(answer.total_bytes)}",
        "readyBytes": answer.ready_bytes,
        "totalBytes": answer.total_bytes,
        "fetchedBytes": answer.fetched_bytes,
        "expiresAt": _time(answer.expires_at),
    }


def _between(status: Json, next_at: float) -> Json:
    """Return what is said between two windows: nothing is where it should be, for nothing should be anywhere."""
    when = f"the next one begins at {_time(next_at)}" if next_at else "no time to begin is due: it is paused, or over"
    kept = {key: value for key, value in status.items() if key in ("workflow", "observedGeneration")}
    return {**kept, "phase": SCHEDULED, "message": when, "percent": 0}


def _as_condition(resource: PrefetchResource, kind: str, holds: bool, reason: str, message: str, now: float) -> Json:
    value = "True" if holds else "False"
    before = _condition(resource.status, kind)
    changed = before is None or before["status"] != value
    return {
        "type": kind,
        "status": value,
        "observedGeneration": resource.generation,
        "lastTransitionTime": _time(now) if changed or before is None else before["lastTransitionTime"],
        "reason": reason,
        "message": cut(message, _MAX_MESSAGE),
    }


def _condition(status: Json, kind: str) -> Json | None:
    return next((each for each in status.get("conditions") or [] if each["type"] == kind), None)


def is_due(old: Json, new: Json, since_s: float) -> bool:
    """Whether the new status is worth a write. since_s: seconds since the last write."""
    if old == new:
        return False
    if any(old.get(key) != new.get(key) for key in _AT_ONCE) or _verdicts(old) != _verdicts(new):
        return True
    return abs(new.get("percent", 0) - old.get("percent", 0)) >= _WORTH_PERCENT or since_s >= WRITE_EVERY_S


def _verdicts(status: Json) -> set[tuple[str, str, str]]:
    """Return what the conditions say, without the words."""
    return {(each["type"], each["status"], each["reason"]) for each in status.get("conditions") or []}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
