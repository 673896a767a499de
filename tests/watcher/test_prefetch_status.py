"""What a `Prefetch` resource says of its workflow, how often, and what a look finds missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchSpec, PrefetchStatus
from kube_cache.kube.prefetches import PrefetchResource, specification
from kube_cache.temporal.prefetches import Seen
from watcher.prefetch_status import compose, is_due
from watcher.prefetches import decide

GIB = 2**30
RESOURCE = PrefetchResource(
    "ml", "llama", "0a1b2c3d-more", 3, "77", {"datasets": ["s3://models/gpt"], "nodes": ["gpu-1", "gpu-2"]}, {}, False
)
SPEC = specification(RESOURCE)


def answer(**fields: Any) -> PrefetchStatus:
    given: dict[str, Any] = {
        "phase": PrefetchPhase.WARMING, "message": "1 of 2 nodes hold 1.0 GiB", "matched": 2, "wanted": 2, "ready": 1,
        "ready_bytes": GIB, "total_bytes": 2 * GIB, "expires_at": 86400.0, "spec": SPEC, **fields,
    }  # fmt: skip
    return PrefetchStatus("ml", RESOURCE.prefetch, datasets=["s3://models/gpt"], **given)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_the_workflow_s_answer_is_told() -> None:
    status = compose(RESOURCE, answer(), 1000.0)
    assert (status["phase"], status["percent"], status["observedGeneration"]) == ("Warming", 50, 3)
    assert status["nodes"] == {"ready": 1, "planned": 2, "matching": 2}
    assert status["data"] == "1.0 GiB of 2.0 GiB"
    assert status["expiresAt"] == "1970-01-02T00:00:00Z"
    assert status["workflow"] == "prefetch/ml/llama.0a1b2c3d"
    assert conditions(status) == {"Ready": ("False", "Warming"), "Applied": ("True", "Applied")}


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = compose(RESOURCE, answer(), 1000.0)
    later = compose(replace(RESOURCE, status=first), answer(message="2 fetch"), 2000.0)
    assert {each["lastTransitionTime"] for each in later["conditions"]} == {"1970-01-01T00:16:40Z"}
    ready = compose(replace(RESOURCE, status=later), answer(phase=PrefetchPhase.READY, ready=2), 3000.0)
    times = {each["type"]: each["lastTransitionTime"] for each in ready["conditions"]}
    assert times == {"Ready": "1970-01-01T00:50:00Z", "Applied": "1970-01-01T00:16:40Z"}
    assert ready["percent"] == 100


def test_while_temporal_is_away_the_last_progress_stays_and_the_reason_is_told() -> None:
    first = compose(RESOURCE, answer(phase=PrefetchPhase.READY, ready=2), 1000.0)
    edited = replace(RESOURCE, status=first, generation=4)
    status = compose(edited, None, 2000.0, problem=("TemporalUnavailable", "connection refused"))
    assert (status["phase"], status["observedGeneration"]) == ("Ready", 3)
    assert status["message"] == "TemporalUnavailable: connection refused"
    assert conditions(status) == {"Ready": ("True", "Ready"), "Applied": ("False", "TemporalUnavailable")}
    assert [each["observedGeneration"] for each in status["conditions"]] == [3, 4], "what is ready is the older one"


def test_one_that_never_had_a_workflow_has_a_phase_too() -> None:
    status = compose(RESOURCE, None, 2000.0, problem=("SpecRefused", "spec.maxBytes: 'lots' is no number"))
    assert status["phase"] == "AwaitingOperator"
    assert "observedGeneration" not in status
    assert conditions(status) == {"Applied": ("False", "SpecRefused")}


def test_nothing_in_a_status_grows_with_the_cluster() -> None:
    big = answer(message="x" * 100_000, wanted=5000, ready=4000, busy=[f"node-{number}" for number in range(256)])
    assert len(str(compose(RESOURCE, big, 1000.0))) < 4096


@pytest.mark.parametrize(
    ("fields", "since_s", "due"),
    [
        pytest.param({}, 1000.0, False, id="nothing new"),
        pytest.param({"message": "2 fetch"}, 14.0, False, id="other words within 15 s"),
        pytest.param({"message": "2 fetch"}, 15.0, True, id="other words after 15 s"),
        pytest.param({"ready_bytes": 1.1 * GIB}, 1.0, False, id="5 % within 15 s"),
        pytest.param({"ready_bytes": 1.3 * GIB}, 1.0, True, id="15 %"),
        pytest.param({"phase": PrefetchPhase.PAUSED}, 1.0, True, id="another phase"),
    ],
)
def test_a_status_is_written_every_15_seconds_or_10_percent(fields: dict[str, Any], since_s: float, due: bool) -> None:
    old = compose(RESOURCE, answer(), 1000.0)
    new = compose(replace(RESOURCE, status=old), answer(**fields), 1000.0 + since_s)
    assert is_due(old, new, since_s) is due


def test_a_new_generation_is_observed_at_once() -> None:
    old = compose(RESOURCE, answer(), 1000.0)
    assert is_due(old, compose(replace(RESOURCE, status=old, generation=4), answer(), 1001.0), 1.0)


OTHER = replace(SPEC, copies=1)
EXPIRED = {"phase": "Expired", "observedGeneration": 3}


@pytest.mark.parametrize(
    ("seen", "changed", "step"),
    [
        pytest.param(Seen(), {}, "start", id="there is none"),
        pytest.param(Seen(answer(), runs=True), {}, "", id="it runs as it should"),
        pytest.param(Seen(answer(spec=OTHER), runs=True), {}, "apply", id="the resource was edited"),
        pytest.param(
            Seen(answer(), runs=True), {"spec": {**RESOURCE.spec, "paused": True}}, "pause", id="to be paused"
        ),
        pytest.param(Seen(answer(paused=True), runs=True), {}, "resume", id="to be resumed"),
        pytest.param(Seen(answer(phase=PrefetchPhase.EXPIRED)), {}, "", id="it has expired"),
        pytest.param(Seen(answer(phase=PrefetchPhase.CANCELLED)), {}, "", id="somebody cancelled it"),
        pytest.param(Seen(answer(phase=PrefetchPhase.EXPIRED, spec=OTHER)), {}, "start", id="edited after its end"),
        pytest.param(Seen(broken="was terminated by ann"), {}, "start", id="somebody terminated it"),
        pytest.param(Seen(), {"status": EXPIRED}, "", id="Temporal has forgotten one that expired"),
        pytest.param(Seen(), {"status": EXPIRED, "generation": 4}, "start", id="and it was edited since"),
    ],
)
def test_a_look_finds_what_is_missing(seen: Seen, changed: dict[str, Any], step: str) -> None:
    assert decide(replace(RESOURCE, **changed), SPEC, seen) == step


def test_two_resources_of_one_content_are_two_prefetches() -> None:
    again = replace(RESOURCE, uid="9f8e7d6c-more")
    assert specification(again) == replace(SPEC, name="llama.9f8e7d6c")
    assert isinstance(SPEC, PrefetchSpec)
