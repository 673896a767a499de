"""The nodes that a `Prefetch` works on: each is checked, joins what it lacks, and waits for the entities' answers.

Keeps which nodes are busy and which have failed. Does not choose nodes: the plan does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef, Policy, Snapshot
    from kube_cache.contracts.node import DatasetOnNodeInput, JoinInput
    from kube_cache.contracts.prefetch import (
        PREFETCH_PRIORITY,
        HoldPrefetchedInput,
        NodeFailure,
        PrefetchSpec,
        PrefetchState,
    )
    from kube_cache.contracts.warm_pod import DatasetFailed, DatasetReady
    from kube_cache.units import format_bytes
    from workflows import cluster_calls, node_calls
    from workflows.failures import error_info

# A download that answers nothing for so long is asked for again: its entity may have been terminated.
_ASK_AGAIN_S = 180.0
_FIRST_REST_S, _MAX_REST_S = 60.0, 3600.0
_MAX_FAILURES = 100
SOURCE_CHANGED = "SourceChanged"


@dataclass(frozen=True)
class Wanted:
    """What the nodes are to hold now."""

    owner: str
    spec: PrefetchSpec
    policy: Policy
    snapshots: list[Snapshot]
    until: float
    """Seconds since the epoch."""
    max_bytes_per_s: int
    """What one node may use of the bandwidth; 0 = no limit."""


class Nodes:
    def __init__(self, state: PrefetchState) -> None:
        self._state = state
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._promised: dict[str, int] = {}
        """Node -> bytes that it fetches now, of the budget."""
        self._answers: dict[tuple[str, str], DatasetReady | DatasetFailed] = {}
        """By node and digest."""
        self._joined: dict[tuple[str, str], JoinInput] = {}
        """Downloads that were joined and have not answered."""
        self.news = False
        """Something was fetched, or failed, or was unknown to the inventory, since the last plan."""
        self.source_changed = False
        """A download found other contents than were resolved."""

    @property
    def busy(self) -> list[str]:
        return sorted(self._busy)

    @property
    def fetching(self) -> list[str]:
        """Nodes that wait for a download."""
        return sorted(self._promised)

    def resting(self, now: float) -> list[str]:
        """Nodes that failed of late."""
        return sorted(node for node, failure in self._state.failures.items() if failure.until > now)

    def visit(self, node: str, wanted: Wanted, *, known: bool) -> None:
        """Begin work on a node. known: the inventory says that it holds everything."""
        task = asyncio.create_task(self._visit(node, wanted, known=known))
        self._busy[node] = task
        task.add_done_callback(lambda _: self._busy.pop(node, None))

    async def stop(self, *, leave: bool) -> None:
        """End all work. leave: the downloads are no longer wanted; else they go on and are joined again."""
        joined = list(self._joined.values())
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._busy.clear()
        if leave:
            await asyncio.gather(*(_leave(each) for each in joined))

    def answer(self, answer: DatasetReady | DatasetFailed) -> None:
        if answer.node in self._busy:
            self._answers[answer.node, answer.digest] = answer

    async def _visit(self, node: str, wanted: Wanted, *, known: bool) -> None:
        try:
            await self._warm(node, wanted, known=known)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self._fail(node, error_info(error, node=node))
        finally:
            self.news = self.news or not known
            self._promised.pop(node, None)
            for answers in (self._answers, self._joined):
                for key in [key for key in answers if key[0] == node]:
                    del answers[key]

    async def _warm(self, node: str, wanted: Wanted, *, known: bool) -> None:
        """Bring the data to the node. Raises FailureError; every other failure is noted."""
        arg = HoldPrefetchedInput(wanted.owner, wanted.until, wanted.snapshots, list(self._state.superseded))
        disk = await node_calls.hold_prefetched(node, arg)
        if self._exceeds_budget(wanted.spec, disk.missing_bytes):
            budget = format_bytes(wanted.spec.max_bytes)
            why = f"{format_bytes(disk.missing_bytes)} more would exceed the prefetch's budget of {budget}; raise it"
            self._fail(node, ErrorInfo("BudgetExceeded", why), until=wanted.until)
            return
        for snapshot in wanted.snapshots:
            dataset = DatasetOnNodeInput(node, disk.cache_id, snapshot, wanted.policy)
            if snapshot.digest not in disk.missing:
                if not known:
                    await cluster_calls.join_for_prefetch(JoinInput(dataset, _consumer(wanted, hit=True)))
                continue
            self._promised[node] = disk.missing_bytes
            if not await self._fetch(dataset, _consumer(wanted)):
                return
        self._state.failures.pop(node, None)

    async def _fetch(self, dataset: DatasetOnNodeInput, consumer: Consumer) -> bool:
        """Join a download and wait for its end; whether the data is there."""
        node, key = dataset.node, (dataset.node, dataset.snapshot.digest)
        again = False
        while key not in self._answers:
            self._joined[key] = JoinInput(dataset, consumer, leave=True)
            await cluster_calls.join_for_prefetch(JoinInput(dataset, consumer, again=again))
            again = True
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: key in self._answers, timeout=_ASK_AGAIN_S)
        del self._joined[key]
        answer = self._answers.pop(key)
        if isinstance(answer, DatasetReady):
            self._state.fetched_bytes += answer.fetched_bytes
            return True
        self.source_changed = self.source_changed or answer.error.type == SOURCE_CHANGED
        self._fail(node, answer.error)
        return False

    def _exceeds_budget(self, spec: PrefetchSpec, more: int) -> bool:
        spent = self._state.fetched_bytes + sum(self._promised.values())
        return bool(spec.max_bytes and more) and spent + more > spec.max_bytes

    def _fail(self, node: str, error: ErrorInfo, *, until: float = 0) -> None:
        now, failures = workflow.now().timestamp(), self._state.failures
        count = failures[node].count + 1 if node in failures else 1
        rest_s = min(_MAX_REST_S, _FIRST_REST_S * 2.0 ** (count - 1))
        failures[node] = NodeFailure(error, count, until or now + rest_s)
        while len(failures) > _MAX_FAILURES:
            del failures[min(failures, key=lambda name: failures[name].until)]
        workflow.logger.info("a node could not be prefetched to", extra={"node": node, "error": error.message})


def _consumer(wanted: Wanted, *, hit: bool = False) -> Consumer:
    return Consumer(
        wanted.owner,
        PodRef(wanted.spec.namespace, "", ""),
        priority=PREFETCH_PRIORITY,
        hit=hit,
        prefetch=True,
        max_bytes_per_s=wanted.max_bytes_per_s,
    )


async def _leave(arg: JoinInput) -> None:
    try:
        await cluster_calls.join_for_prefetch(arg)
    except FailureError as error:  # the download comes to its end, and what it brought goes first on its disk
        workflow.logger.warning("a download was not left", extra={"node": arg.dataset.node, "error": str(error)})


def wanted(spec: PrefetchSpec, policy: Policy, state: PrefetchState) -> Wanted:
    owner = names.prefetch_id(spec.namespace, spec.name)
    # Those that are yet to hold the data, the busy ones among them, share the budget; `parallel` at most do at once.
    sharing = min(spec.parallel, max(1, state.wanted - state.ready))
    share = max(1, spec.max_bytes_per_s // sharing) if spec.max_bytes_per_s else 0
    return Wanted(owner, spec, policy, list(state.snapshots), state.begun_at + spec.expires_s, share)
