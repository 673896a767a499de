"""Leading: taken when the Lease is free, kept while the API server is away, given back at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kube_cache.kube.client import ApiError
from kube_cache.telemetry import metrics
from tools.stack.waiting import true as until
from watcher.leader import Leader


class FakeLease:
    """Answers as told, then as it did last."""

    def __init__(self, *answers: bool | ApiError) -> None:
        self._answers = list(answers)
        self.looks = 0
        self.released = 0

    def try_hold(self) -> bool:
        self.looks += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def release(self) -> None:
        self.released += 1


AWAY = ApiError(0, "Unreachable", "does not answer")


def play(lease: FakeLease, done: Callable[[FakeLease, list[bool]], bool]) -> list[bool]:
    """Run until `done`, and resign; each change of the leadership."""
    changes: list[bool] = []

    async def run() -> None:
        leader = Leader(lease, renew_s=0.001, on_change=changes.append)  # type: ignore[arg-type]
        running = asyncio.create_task(leader.run())
        await asyncio.to_thread(until, lambda: done(lease, changes), "it went as told", 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await leader.resign()

    asyncio.run(run())
    return changes


def test_an_operator_leads_when_it_holds_the_lease_and_gives_it_back_at_the_end() -> None:
    lease = FakeLease(False, False, True)
    assert play(lease, lambda _, changes: bool(changes)) == [True, False]
    assert lease.released == 1
    assert metrics.REGISTRY.get_sample_value("kube_cache_operator_leading") == 0


def test_an_operator_that_cannot_reach_the_api_server_goes_on_leading() -> None:
    """There is nothing to deliver then, and a short outage must not make a new leader tell everything again."""
    lease = FakeLease(True, AWAY, AWAY, AWAY, True)
    assert play(lease, lambda lease, _: lease.looks > 6) == [True, False]


def test_an_operator_that_sees_anothers_name_leads_no_more() -> None:
    lease = FakeLease(True, False)
    assert play(lease, lambda _, changes: len(changes) == 2) == [True, False]
    assert lease.released == 0, "the lease is another's"
