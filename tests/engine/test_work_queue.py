"""Ranges are dealt once, hedged rarely, and left by one of two workers only; the last that writes closes the files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import FetchJob, RemoteObject
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.work_queue import Attempt, Opening, Outcome, WorkQueue
from kube_cache.origin.object_head import ObjectHead
from tests.engine.objects import MIB

Open = Callable[[Opening], ObjectState]


@pytest.fixture
def open_object() -> Iterator[Open]:
    states: list[ObjectState] = []

    def open_object(opening: Opening) -> ObjectState:
        head = None if opening.small else ObjectHead(opening.job.object.size, '"e"', None, None, None, 0)
        states.append(ObjectState(opening.job, head, [], journaled=not opening.small))
        return states[-1]

    yield open_object
    for state in states:
        state.close()


def make_queue(folder: Path, *sizes: int) -> tuple[Control, WorkQueue]:
    jobs = [
        FetchJob(
            RemoteObject("s3", "bucket", f"k{number}", f"k{number}", size, '"e"'),
            folder / f"{number}.part",
            folder / f"{number}.journal",
        )
        for number, size in enumerate(sizes)
    ]
    control = Control(threading.Condition(), sum(sizes), lambda: None)
    return control, WorkQueue(control, jobs)


def next_opening(queue: WorkQueue) -> Opening:
    opening = queue.next()
    assert isinstance(opening, Opening)
    return opening


def next_attempt(queue: WorkQueue) -> Attempt:
    attempt = queue.next()
    assert isinstance(attempt, Attempt)
    return attempt


def complete(attempt: Attempt) -> bool:
    attempt.byte_range.done = attempt.byte_range.length
    return attempt.queue.end(attempt, Outcome.COMPLETE)


def test_the_smallest_object_is_opened_first(tmp_path: Path) -> None:
    _, queue = make_queue(tmp_path, 20 * MIB, 0, 5)
    openings = [next_opening(queue) for _ in range(3)]
    assert [(opening.job.object.size, opening.small) for opening in openings] == [
        (0, False),
        (5, True),
        (20 * MIB, False),
    ]
    assert queue.next() is None


def test_an_object_is_complete_with_its_last_range(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 20 * MIB)
    state = open_object(next_opening(queue))
    assert queue.add(state) == 3
    attempts = [next_attempt(queue) for _ in range(3)]
    assert [complete(attempt) for attempt in attempts] == [False, False, True]
    assert queue.finish(state)


def test_of_two_workers_at_a_range_only_one_gives_up(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 20 * MIB)
    state = open_object(next_opening(queue))
    queue.add(state)
    first = next_attempt(queue)
    queue.hedge(first.state, first.byte_range)
    second = next_attempt(queue)
    assert second.byte_range is first.byte_range
    assert queue.give_up(first.byte_range)
    assert not queue.give_up(first.byte_range)
    queue.end(first, Outcome.GIVEN_UP)
    assert not complete(second)
    assert first.byte_range.fetchers == 0


def test_a_range_that_both_workers_lost_is_dealt_again(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 20 * MIB)
    state = open_object(next_opening(queue))
    queue.add(state)
    first = next_attempt(queue)
    queue.end(first, Outcome.LOST)
    assert next_attempt(queue).byte_range is first.byte_range


def test_a_range_is_hedged_once_and_few_are(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 20 * MIB)
    state = open_object(next_opening(queue))
    queue.add(state)
    first, other = next_attempt(queue), next_attempt(queue)
    queue.hedge(first.state, first.byte_range)
    queue.hedge(first.state, first.byte_range)
    queue.hedge(other.state, other.byte_range)  # one hedge is allowed, until a twentieth of the dealt ranges is more
    assert next_attempt(queue).byte_range is first.byte_range
    assert next_attempt(queue).byte_range is state.ranges[2]
    assert queue.next() is None


@pytest.mark.parametrize("size", [5, 20 * MIB], ids=["small", "large"])
def test_a_failed_call_takes_no_object(tmp_path: Path, open_object: Open, size: int) -> None:
    control, queue = make_queue(tmp_path, size)
    opening = next_opening(queue)
    control.fail(RuntimeError("meanwhile"))
    state = open_object(opening)
    assert (queue.add_small(state) if opening.small else queue.add(state)) is None
    assert queue.states() == []
    assert queue.next() is None


def test_the_last_attempt_closes_an_abandoned_object(tmp_path: Path, open_object: Open) -> None:
    control, queue = make_queue(tmp_path, 20 * MIB)
    state = open_object(next_opening(queue))
    queue.add(state)
    first, second = next_attempt(queue), next_attempt(queue)
    control.fail(RuntimeError("stop"))
    queue.abandon(state)
    assert state.file.fd >= 0
    queue.end(first, Outcome.LOST)
    assert state.file.fd >= 0
    queue.end(second, Outcome.LOST)
    assert state.file.fd == -1


def test_a_small_object_is_reopened_as_a_large_one(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 5)
    state = open_object(next_opening(queue))
    attempt = queue.add_small(state)
    assert attempt is not None
    assert complete(attempt)
    queue.reopen(state)
    assert state.file.fd == -1
    assert not next_opening(queue).small
    assert queue.states() == []
