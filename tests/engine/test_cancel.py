"""A call that is ended from outside: quickly, and with what was verified kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.engine import engine
from kube_cache.engine.ranges import Range
from kube_cache.errors import Cancelled
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB, assert_whole


def test_cancel_is_heard_in_a_tenth_of_a_second_and_keeps_what_was_verified(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    patient = make_fetcher(origin.endpoint, stall_timeout_s=600)  # only the cancellation ends the call
    origin.script = lambda request: faults.stall(None, 100) if request.range and request.range[0] == 16 * MIB else None
    stop = threading.Event()

    def cancelled() -> bool:
        if not stop.is_set() and sum(byte_range.length for byte_range in _complete_ranges(patient)) >= 16 * MIB:
            stop.set()
            cancelled_at.append(time.monotonic())
        return stop.is_set()

    cancelled_at: list[float] = []
    with pytest.raises(Cancelled):
        patient.fetch([remote], cancelled=cancelled)
    assert engine._POLL_S <= 0.1
    assert time.monotonic() - cancelled_at[0] < 60, "on a machine that stands still in between"
    origin.script = lambda _request: None
    patient.fetch([remote])
    assert_whole(patient)
    assert patient.done["key"].resumed_bytes == 16 * MIB
    assert patient.done["key"].fetched_bytes == len(DATA) - 16 * MIB


def _complete_ranges(fetcher: Fetcher) -> list[Range]:
    return [
        byte_range
        for call in fetcher.engine._calls
        for state in call._queue.states()
        for byte_range in state.ranges
        if byte_range.is_complete
    ]


def test_an_exception_of_on_object_ends_the_fetch(origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject) -> None:
    class Mine(Exception): ...

    def refuse(_done: object) -> None:
        raise Mine

    with pytest.raises(Mine):
        quick.engine.fetch(quick.jobs([remote]), on_object=refuse)
