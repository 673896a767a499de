"""A call ends with its first error, and wakes the threads that wait."""

from __future__ import annotations

import threading

import pytest

from kube_cache.engine.control import Control
from kube_cache.errors import Cancelled


def make_control(total_bytes: int = 100) -> tuple[Control, list[str]]:
    stops: list[str] = []
    return Control(threading.Condition(), total_bytes, lambda: stops.append("stopped")), stops


def test_the_first_error_counts() -> None:
    control, stops = make_control()
    first = RuntimeError("first")
    control.fail(first)
    control.fail(RuntimeError("second"))
    assert control.error is first
    assert stops == ["stopped"]
    with pytest.raises(Cancelled):
        control.check()


def test_an_ended_call_cannot_fail() -> None:
    control, stops = make_control()
    control.end()
    control.fail(RuntimeError("late"))
    assert control.error is None
    assert stops == []
    assert control.wait(0)


def test_an_error_ends_a_pause() -> None:
    control, _ = make_control()
    threading.Timer(0.05, control.fail, [RuntimeError("now")]).start()
    with pytest.raises(Cancelled):  # a pause that nothing ends outlives the test's time limit
        control.pause(3600)


def test_progress_never_exceeds_the_total() -> None:
    control, _ = make_control(total_bytes=100)
    control.meter.resume(60)
    control.received(30)
    assert control.progress(7).done_bytes == 90
    control.received(30)
    progress = control.progress(7)
    assert (progress.done_bytes, progress.total_bytes, progress.preallocated_bytes) == (100, 100, 7)


def test_a_wake_ends_one_wait_and_not_the_call() -> None:
    control, _ = make_control()
    control.wake()
    assert not control.wait(3600)
    control.end()
    assert control.wait(3600)
