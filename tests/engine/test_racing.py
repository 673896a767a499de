"""A slow connection is raced by a second one, and the range changes hands."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchedObject
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import Range
from kube_cache.engine.work_queue import WorkQueue
from kube_cache.errors import SourceUnavailable
from tests.engine import faults
from tests.engine.faulty_origin import Close, Fault, FaultyOrigin, Reply
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, assert_whole, is_range


@pytest.mark.slow
def test_a_dripping_connection_is_raced(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    """It delivers a byte now and then, so no timeout ever ends it: a second connection does."""
    patient = make_fetcher(origin.endpoint, stall_timeout_s=30)
    origin.script = faults.times(1, faults.drip(0.2, head=False), when=is_range)
    patient.fetch([remote])  # which would drip for a month
    assert_whole(patient)


@pytest.mark.slow
def test_two_racing_connections_do_not_leave_the_range_to_each_other_for_ever(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    """Silent for longer than it takes to send a second connection after the first: it ends all the same."""
    slow = make_fetcher(origin.endpoint, stall_timeout_s=2.1, give_up_s=1)
    origin.script = lambda request: faults.stall(None, 0) if request.range else None
    with pytest.raises(SourceUnavailable, match="gave up after"):
        slow.fetch([remote])


def test_a_hedge_that_comes_too_late_hands_no_object_over_twice(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    """All workers are busy when the hedge is offered, and the slow one finishes before any of them is free."""
    fetcher = make_fetcher(origin.endpoint, connections=2, max_connections=2)
    slow, other = (origin.put(key, DATA[:65536]) for key in ("slow", "other"))
    answer_slow, answer_other = threading.Event(), threading.Event()

    def held(until: threading.Event) -> Fault:
        def fault(reply: Reply) -> None:
            reply.sock.sendall(reply.head)
            until.wait(60)
            reply.sock.sendall(reply.body)

        return fault

    origin.script = lambda request: (
        held(answer_slow if request.key == "slow" else answer_other) if "if-match" in request.headers else None
    )
    landed: list[str] = []

    def on_object(done: FetchedObject) -> None:
        landed.append(done.job.object.key)
        answer_other.set()  # the worker that is free by now has been offered the hedge

    def hedge() -> None:
        while len(attempts := [worker.attempt for worker in fetcher.engine.workers() if worker.attempt]) < 2:
            time.sleep(0.005)
        for attempt in attempts:
            if attempt.state.remote.key == "slow":
                attempt.queue.hedge(attempt.state, attempt.byte_range)
        answer_slow.set()

    thread = threading.Thread(target=hedge)
    thread.start()
    fetcher.engine.fetch(fetcher.jobs([slow, other]), on_object=on_object)
    thread.join()
    assert sorted(landed) == ["other", "slow"]


@pytest.mark.slow
def test_uneven_connections_under_the_real_governor_hand_each_object_over_once(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small objects, all connections busy, a quarter of them slow: the governor's hedges come when they like."""
    hedges = 0
    offer = WorkQueue.hedge

    def count(queue: WorkQueue, state: ObjectState, byte_range: Range) -> bool:
        nonlocal hedges
        offered = offer(queue, state, byte_range)
        hedges += offered
        return offered

    monkeypatch.setattr(WorkQueue, "hedge", count)
    fetcher = make_fetcher(origin.endpoint, connections=4, max_connections=4)
    objects = [origin.put(f"k{number}", bytes(65536)) for number in range(40)]
    moments = random.Random(1)

    def uneven(reply: Reply) -> None:
        reply.sock.sendall(reply.head)
        if reply.stop.wait(0.4 if moments.random() < 0.75 else moments.uniform(2.2, 3.2)):
            raise Close
        reply.sock.sendall(reply.body)

    origin.script = lambda request: uneven if "if-match" in request.headers else None
    for number in itertools.count():
        landed: list[str] = []
        fetcher.engine.fetch(
            fetcher.jobs(objects, f"{number}-"), on_object=lambda done, to=landed: to.append(done.job.object.key)
        )
        assert sorted(landed) == sorted(remote.key for remote in objects)
        if hedges and number >= 2:
            break
