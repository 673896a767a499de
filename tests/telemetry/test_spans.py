"""The ids of a Pod's trace follow from its uid, and an open span costs nothing while nobody takes spans."""

from __future__ import annotations

import hashlib

import pytest

from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Span
from kube_cache.telemetry.stages import Stage
from kube_cache.telemetry.steps import timed
from tests.telemetry.scrape import Changes

POD = "0e9a1c1e-5f0e-4f3a-9a52-0a4c3f0f2a11"


def test_the_trace_id_is_what_sha256sum_makes_of_the_uid() -> None:
    assert spans.trace_id(POD) == hashlib.sha256(POD.encode()).hexdigest()[:32]


def test_every_process_finds_the_same_ids() -> None:
    assert spans.pod_place(POD) == spans.pod_place(POD)
    assert spans.step_place(POD, "stream", "1").trace == spans.pod_place(POD).trace
    ids = {spans.step_place(POD, stage, key).span for stage in ("stream", "check") for key in ("1", "2")}
    assert len(ids | {spans.pod_place(POD).span}) == 5


def test_a_place_survives_a_header() -> None:
    place = spans.step_place(POD, "check", "run/1")
    assert spans.parse_place(str(place)) == place


@pytest.mark.parametrize("text", ["", "x", "12-", "-12", "0-0", "zz-11", f"{1 << 128:x}-1", f"1-{1 << 64:x}"])
def test_a_header_of_somebody_else_is_no_place(text: str) -> None:
    assert spans.parse_place(text) is None


def test_a_stage_is_a_span_below_the_one_that_is_open(sent: list[Span]) -> None:
    with spans.span("above", spans.pod_place(POD)) as above, timed(Stage.PUBLISH):
        pass
    inner, outer = sent
    assert above is outer
    assert (inner.name, inner.parent, inner.place.trace) == ("publish", outer.place.span, outer.place.trace)
    assert outer.parent == spans.pod_place(POD).span
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_an_error_is_on_every_span_that_it_passes(sent: list[Span]) -> None:
    with pytest.raises(ValueError, match="torn"), spans.span("above", spans.pod_place(POD)), timed(Stage.PUBLISH):
        raise ValueError("torn")
    assert [span.error for span in sent] == ["ValueError: torn"] * 2


def test_nothing_is_traced_outside_of_a_trace(sent: list[Span]) -> None:
    changes = Changes()
    with timed(Stage.PUBLISH):
        assert spans.current() is None
    assert not sent
    assert changes.of("kube_cache_stage_seconds_count", stage="publish") == 1


def test_without_a_sink_there_are_no_spans() -> None:
    with spans.span("above", spans.pod_place(POD)) as above:
        assert above is None
        assert spans.current() is None
