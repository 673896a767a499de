"""Ranges are dealt once, hedged rarely, and left by one of two workers only; the last that writes closes the files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import ObjectHead
from kube_cache.dataset.transfer import FetchJob
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState, Phase
from kube_cache.engine.work_queue import Attempt, Opening, Outcome, Question, WorkQueue
from tests.engine.objects import MIB
from tests.engine.plans import ScriptedPlan, from_origin

Open = Callable[[Opening], ObjectState]


@pytest.fixture
def open_object() -> Iterator[Open]:
    states: list[ObjectState] = []

    def open_object(opening: Opening) -> ObjectState:
        head = None if opening.small else ObjectHead(opening.job.object.size, '"e"', None, None, None)
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


def test_a_range_with_a_plan_is_never_hedged(tmp_path: Path) -> None:
    """The plan finds another source, and a second request would fetch the same bytes from the origin twice."""
    remote = RemoteObject("s3", "bucket", "k", "k", 20 * MIB, '"e"')
    control = Control(threading.Condition(), remote.size, lambda: None)
    queue = WorkQueue(control, [FetchJob(remote, tmp_path / "p", tmp_path / "j", ScriptedPlan(from_origin))])
    job = next_opening(queue).job
    state = ObjectState(job, ObjectHead(job.object.size, '"e"', None, None, None), [], journaled=True)
    queue.add(state)
    question = queue.next()
    assert isinstance(question, Question)
    assert queue.next() is None, "one worker asks at a time"
    attempt = queue.answer(question, from_origin(question.wanted))
    assert attempt is not None
    assert not queue.hedge(attempt.state, attempt.byte_range)
    state.close()


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


def test_a_hedge_that_outlives_its_object_is_dropped(tmp_path: Path, open_object: Open) -> None:
    """No worker was free to take the hedge; the slow worker then finished all the same."""
    _, queue = make_queue(tmp_path, 5, 6)
    states = [open_object(next_opening(queue)) for _ in range(2)]
    first, second = (queue.add_small(state) for state in states)
    assert first is not None
    assert second is not None
    queue.hedge(first.state, first.byte_range)
    assert complete(first)
    assert queue.next() is None
    assert complete(second)


def test_an_object_is_whole_once(tmp_path: Path, open_object: Open) -> None:
    _, queue = make_queue(tmp_path, 5)
    state = open_object(next_opening(queue))
    attempt = queue.add_small(state)
    assert attempt is not None
    queue.hedge(state, attempt.byte_range)
    loser = next_attempt(queue)
    assert not complete(attempt)  # the loser may still write
    assert queue.end(loser, Outcome.LOST)
    assert state.phase is Phase.WHOLE
    assert queue.finish(state)
    with pytest.raises(KeyError):
        queue.finish(state)


def test_ranges_that_are_fetched_again_are_dealt_once_in_spite_of_an_old_hedge(
    tmp_path: Path, open_object: Open
) -> None:
    _, queue = make_queue(tmp_path, 5)
    state = open_object(next_opening(queue))
    attempt = queue.add_small(state)
    assert attempt is not None
    queue.hedge(state, attempt.byte_range)
    assert complete(attempt)
    attempt.byte_range.restart()
    state.left = 1
    queue.put_back(state, [attempt.byte_range])
    assert next_attempt(queue).byte_range is attempt.byte_range
    assert queue.next() is None
