"""Within a window a prefetch keeps its end, whatever is edited or terminated; between windows the next is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_cache.contracts.common import Policy
from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchSchedule, PrefetchStatus
from kube_cache.errors import InvalidRequest
from kube_cache.kube.prefetches import PrefetchResource, schedule, specification
from kube_cache.temporal.prefetch_schedules import Found, digest
from kube_cache.temporal.prefetches import Seen
from watcher.prefetch_status import compose
from watcher.prefetch_windows import decide, rest_s

WINDOW_S, BEGAN, NOW = 36000.0, 1000.0, 4000.0
SCHEDULE = {"cron": "0 8 * * 1-5", "timeZone": "Europe/Berlin", "window": "10h"}
RESOURCE = PrefetchResource(
    "ml", "llama", "0a1b2c3d-more", 3, "77",
    {"datasets": ["s3://models/gpt"], "nodes": ["gpu-1"], "schedule": SCHEDULE}, {}, False,
)  # fmt: skip
SPEC = specification(RESOURCE)
FOUND = Found("", 90000.0, BEGAN, False)


def answer(**fields: Any) -> PrefetchStatus:
    given = {
        "phase": PrefetchPhase.READY, "message": "", "expires_at": BEGAN + WINDOW_S,
        "spec": replace(SPEC, expires_s=WINDOW_S - 2), **fields,
    }  # fmt: skip
    return PrefetchStatus("ml", RESOURCE.prefetch, datasets=["s3://models/gpt"], **given)


PAUSED = {"spec": {**RESOURCE.spec, "paused": True}}


@pytest.mark.parametrize(
    ("seen", "changed", "found", "step", "left_s"),
    [
        pytest.param(Seen(), {}, FOUND, "", None, id="the schedule starts it, nobody else"),
        pytest.param(Seen(answer(), runs=True), {}, FOUND, "", None, id="it runs as it should"),
        pytest.param(
            Seen(answer(spec=replace(SPEC, copies=1)), runs=True), {}, FOUND, "apply", WINDOW_S - 3000, id="edited"
        ),
        pytest.param(Seen(answer(), runs=True), PAUSED, FOUND, "pause", None, id="to be paused"),
        pytest.param(Seen(answer(paused=True), runs=True), {}, FOUND, "resume", None, id="to be resumed"),
        pytest.param(Seen(broken="was terminated"), {}, FOUND, "start", WINDOW_S - 3000, id="terminated in its window"),
        pytest.param(Seen(broken="was terminated"), PAUSED, FOUND, "", None, id="terminated and paused"),
        pytest.param(
            Seen(broken="was terminated"), {}, FOUND._replace(last_at=0.0), "", None, id="terminated before any window"
        ),
        pytest.param(Seen(answer(phase=PrefetchPhase.EXPIRED)), {}, FOUND, "", None, id="its window is over"),
        pytest.param(Seen(answer(phase=PrefetchPhase.CANCELLED)), {}, FOUND, "", None, id="somebody cancelled it"),
    ],
)
def test_what_is_missing_within_a_window(
    seen: Seen, changed: dict[str, Any], found: Found, step: str, left_s: float | None
) -> None:
    now = NOW if found.last_at else BEGAN + 2 * WINDOW_S
    taken, spec = decide(replace(RESOURCE, **changed), SPEC, seen, found, WINDOW_S, now)
    assert taken == step
    if left_s is not None:
        assert spec == replace(SPEC, expires_s=left_s)


def test_between_two_windows_the_next_one_is_told_and_nothing_of_the_last() -> None:
    during = compose(RESOURCE, answer(ready=1, wanted=1), NOW, next_at=90000.0)
    assert (during["phase"], during["nextStart"]) == ("Ready", "1970-01-02T01:00:00Z")
    after = compose(replace(RESOURCE, status=during), None, NOW + WINDOW_S, next_at=90000.0)
    assert after["message"] == "the next one begins at 1970-01-02T01:00:00Z"
    assert (after["phase"], after["percent"], after["observedGeneration"]) == ("Scheduled", 0, 3)
    assert after.keys().isdisjoint({"nodes", "data", "readyBytes", "expiresAt"})
    paused = compose(replace(RESOURCE, status=after), None, NOW + WINDOW_S, next_at=0.0)
    assert "nextStart" not in paused
    assert "paused" in paused["message"]


def test_a_look_is_due_when_a_window_begins() -> None:
    assert rest_s(FOUND._replace(next_at=0.0), 15.0) == 15.0
    assert rest_s(FOUND._replace(next_at=4e9), 15.0) == 15.0
    assert rest_s(FOUND._replace(next_at=1.0), 15.0) == 1.0


def test_what_a_schedule_was_made_of_is_told_apart() -> None:
    given = schedule(RESOURCE)
    assert given == PrefetchSchedule("0 8 * * 1-5", 36000, "Europe/Berlin")
    same = digest(SPEC, given, Policy(), paused=False)
    assert digest(replace(SPEC, expires_s=1.0), given, Policy(), paused=False) == same, "the window is the end"
    others = [
        digest(SPEC, given, Policy(), paused=True),
        digest(SPEC, given, Policy(linger_s=1.0), paused=False),
        digest(replace(SPEC, copies=1), given, Policy(), paused=False),
        digest(SPEC, replace(given, time_zone="UTC"), Policy(), paused=False),
        digest(SPEC, replace(given, window_s=60.0), Policy(), paused=False),
    ]
    assert len({same, *others}) == 6


def test_a_schedule_that_an_older_kind_has_let_through_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidRequest, match=r"spec.schedule.window: 'long'"):
        schedule(replace(RESOURCE, spec={**RESOURCE.spec, "schedule": {**SCHEDULE, "window": "long"}}))
    assert schedule(replace(RESOURCE, spec={"datasets": []})) is None
