"""Who asks the same at once shares one call, and no answer is older than its question."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from activities.cluster import shared_calls
from activities.cluster.shared_calls import SharedCalls
from kube_cache.errors import SourceUnavailable

WAIT_S = 30


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the next call is shared."""
    monkeypatch.setattr(shared_calls, "_MAX_WAIT_S", WAIT_S)


class Source:
    """Answers with the number of the call, once it may."""

    def __init__(self) -> None:
        self.begun: list[Future[int]] = []
        self.changed = threading.Condition()

    def call(self) -> int:
        answer: Future[int] = Future()
        with self.changed:
            self.begun.append(answer)
            self.changed.notify_all()
        return answer.result(WAIT_S)

    def wait_begun(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) == count, WAIT_S), f"{len(self.begun)} calls"


class Askers:
    def __init__(self, source: Source) -> None:
        self.source, self.calls = source, SharedCalls[int]()
        self.pool = ThreadPoolExecutor(20)
        self.waiting: set[int] = set()
        self.changed = threading.Condition()

    def ask(self, key: str = "uri") -> Future[int]:
        return self.pool.submit(self.calls.get, key, self.source.call, beat=self._note)

    def wait_until_waiting(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.waiting) == count, WAIT_S), (
                f"{len(self.waiting)} threads wait"
            )

    def _note(self) -> None:
        with self.changed:
            self.waiting.add(threading.get_ident())
            self.changed.notify_all()


@pytest.fixture
def askers(monkeypatch: pytest.MonkeyPatch) -> Askers:
    monkeypatch.setattr(shared_calls, "_BEAT_S", 0.01)
    return Askers(Source())


def test_those_who_ask_during_a_call_share_the_next_one(askers: Askers) -> None:
    first = askers.ask()
    askers.source.wait_begun(1)
    others = [askers.ask() for _ in range(10)]
    askers.wait_until_waiting(9)  # the tenth makes the call
    askers.source.begun[0].set_result(1)
    askers.source.wait_begun(2)
    askers.source.begun[1].set_result(2)

    assert first.result(WAIT_S) == 1
    assert {other.result(WAIT_S) for other in others} == {2}
    assert len(askers.source.begun) == 2


def test_nobody_gets_the_answer_of_a_call_that_began_before_the_question(askers: Askers) -> None:
    first = askers.ask()
    askers.source.wait_begun(1)
    second = askers.ask()
    askers.source.begun[0].set_result(1)
    askers.source.wait_begun(2)
    third = askers.ask()  # while the second's call runs
    askers.source.begun[1].set_result(2)
    askers.source.wait_begun(3)
    askers.source.begun[2].set_result(3)

    assert [one.result(WAIT_S) for one in (first, second, third)] == [1, 2, 3]


def test_other_keys_do_not_wait(askers: Askers) -> None:
    one, other = askers.ask("one"), askers.ask("other")
    askers.source.wait_begun(2)
    for answer in askers.source.begun:
        answer.set_result(1)

    assert [one.result(WAIT_S), other.result(WAIT_S)] == [1, 1]


def test_an_error_of_the_call_is_everybody_s(askers: Askers) -> None:
    askers.ask()
    askers.source.wait_begun(1)
    others = [askers.ask() for _ in range(3)]
    askers.wait_until_waiting(2)
    askers.source.begun[0].set_result(1)
    askers.source.wait_begun(2)
    askers.source.begun[1].set_exception(SourceUnavailable("the origin is away"))

    for other in others:
        with pytest.raises(SourceUnavailable):
            other.result(WAIT_S)
    again = askers.ask()
    askers.source.wait_begun(3)
    askers.source.begun[2].set_result(3)
    assert again.result(WAIT_S) == 3


def test_whoever_waited_for_a_thread_that_was_stopped_calls_for_itself(askers: Askers) -> None:
    askers.ask()
    askers.source.wait_begun(1)
    others = [askers.ask() for _ in range(2)]
    askers.wait_until_waiting(1)
    askers.source.begun[0].set_result(1)
    askers.source.wait_begun(2)
    askers.source.begun[1].set_exception(RuntimeError("stopped"))
    askers.source.wait_begun(3)
    askers.source.begun[2].set_result(3)

    outcomes = [other.exception(WAIT_S) or other.result() for other in others]
    assert 3 in outcomes
    assert sum(isinstance(outcome, RuntimeError) for outcome in outcomes) == 1


def test_nobody_waits_beside_a_long_call(askers: Askers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_calls, "_MAX_WAIT_S", 0.0)
    first = askers.ask()
    askers.source.wait_begun(1)
    began = time.monotonic()
    while time.monotonic() == began:  # until the clock has moved
        pass
    second = askers.ask()
    askers.source.wait_begun(2)
    askers.source.begun[1].set_result(2)

    assert second.result(WAIT_S) == 2
    assert not first.done()
    askers.source.begun[0].set_result(1)
