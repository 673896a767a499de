"""The sweep: finds each Pod that needs a workflow and has no open one, whatever ended the last, and starts another.

Level-triggered: it compares the Pods that the watch knows, gated ones and those that are released and not yet where
their data is, with the executions that Temporal has open, and asks both once more before it acts, since the watch and
the visibility store lag behind. Also replaced is a workflow of another generation, whose history this operator cannot
replay, and withdrawn is a nomination that no release uses. Only the leading operator sweeps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
from structlog.contextvars import bind_contextvars
from temporalio.client import Client, WorkflowExecution
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef
from kube_cache.errors import PodGone, StartRefused
from kube_cache.kube import gate, seats
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import PodFacts
from kube_cache.telemetry import metrics, prefetch_metrics
from kube_cache.telemetry.bounds import PHASES, PREFETCH_PHASES
from kube_cache.temporal import executions
from kube_cache.temporal.prefetches import running_prefetches
from kube_cache.temporal.search_attributes import phase_of
from watcher.nominations import Nominations
from watcher.pods import PodWatcher
from watcher.reporter import PodReporter
from watcher.starter import Starter
from watcher.unreplayable import Unreplayable
from watcher.warm_pods import WarmPods

_log = structlog.get_logger("kube_cache.sweep")
# Pods treated at once: after Temporal has lost its database that is every gated Pod.
_CONCURRENCY = 16
# The first list has been handed on by then, seconds.
_FIRST_AFTER_S = 5.0
# Longest time between two starts of one Pod's workflow, seconds. A workflow that ends each time must not loop.
_MAX_PAUSE_S = 600.0


@dataclass
class _Unattended:
    """A Pod that needs a workflow and was found without an open one."""

    since: float
    """When it was found first; time of the event loop, seconds, as `not_before`."""
    starts: int = 0
    not_before: float = 0.0
    open_since: float = 0.0
    """When its workflow was seen open again; 0 while it is not."""


class Sweep:
    """Belongs to one event loop."""

    def __init__(
        self,
        client: Client,
        kube: KubeClient,
        watcher: PodWatcher,
        starter: Starter,
        warm_pods: WarmPods,
        reporter: PodReporter,
        *,
        seat_namespace: str,
        interval_s: float,
    ) -> None:
        self._client = client
        self._kube = kube
        self._watcher = watcher
        self._starter = starter
        self._warm_pods = warm_pods
        self._reporter = reporter
        self._seat_namespace = seat_namespace
        self._interval_s = interval_s
        self._found: dict[str, _Unattended] = {}
        """Workflow id -> Pod that is without an open workflow, or was lately."""
        self._nominations = Nominations(kube)
        self._unreplayable = Unreplayable(client)
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def run(self) -> None:
        """Sweep soon, and then at the interval, while this operator leads."""
        pause_s = min(_FIRST_AFTER_S, self._interval_s)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self._interval_s
            if not self._starter.leading:
                continue
            for each in (
                self._unreplayable.end,
                self.sweep,
                self.count_prefetches,
            ):  # one that fails must not keep the other from its work
                try:
                    await each()
                except Exception as error:  # Temporal is away; whatever it is, the next sweep is owed
                    metrics.SWEEPS_FAILED.inc()
                    _log.warning("sweep failed; trying again", error=repr(error), wait_s=pause_s)

    async def sweep(self) -> None:
        """Start what is missing, once. Raises RPCError if Temporal cannot list; errors of one Pod are logged."""
        open_pods: dict[str, str] = {}
        old: list[WorkflowExecution] = []
        async for execution in executions.running(self._client, names.WARM_POD):
            open_pods[execution.id] = phase_of(execution)
            if await executions.generation(execution) != names.WARM_POD_GENERATION:
                old.append(execution)
        pods = {pod.workflow_id: pod for pod in self._watcher.unfinished_pods()}
        self._found = {workflow_id: found for workflow_id, found in self._found.items() if workflow_id in pods}
        work: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        for workflow_id, pod in pods.items():
            if workflow_id in open_pods:
                self._note_open(workflow_id)
            else:
                work.append((workflow_id, partial(self._start_if_ended, pod)))
        for execution in old:
            owner = pods.get(execution.id)
            end = partial(self._replace, owner, execution) if owner else partial(self._end_old, execution)
            work.append((execution.id, end))
        gated = self._watcher.gated_pods()
        work += [
            (pod.workflow_id, partial(self._nominations.withdraw, pod)) for pod in self._nominations.find_left(gated)
        ]
        await asyncio.gather(*(self._try(workflow_id, each) for workflow_id, each in work))
        metrics.show_counts(metrics.WORKFLOWS, PHASES, Counter(open_pods.values()))
        self._measure(gated)

    async def count_prefetches(self) -> None:
        """Show how many live, by phase. Raises RPCError."""
        phases = Counter([each.phase async for each in running_prefetches(self._client)])
        metrics.show_counts(prefetch_metrics.LIVING, PREFETCH_PHASES, phases)

    async def _try(self, workflow_id: str, work: Callable[[], Awaitable[None]]) -> None:
        bind_contextvars(workflow=workflow_id)  # of this task alone
        async with self._slots:
            try:
                await work()
            except StartRefused:
                pass  # told on the Pod
            except Exception:  # one Pod must not keep the sweep from the others
                metrics.SWEEPS_FAILED.inc()
                _log.exception("cannot look after a Pod; the next sweep tries again")

    async def _start_if_ended(self, pod: PodFacts) -> None:
        if pod.view.deleting or self._starter.has_pending(pod.workflow_id):
            return
        ended = await executions.describe(self._client, pod.workflow_id)
        if ended is not None and ended.close_time is None:
            self._note_open(pod.workflow_id)  # the visibility store lags
            return
        now = asyncio.get_running_loop().time()
        found = self._found.setdefault(pod.workflow_id, _Unattended(now))
        if found.open_since:  # it ran for a while, and has ended again
            found.since, found.open_since = now, 0.0
        if now < found.not_before or (fresh := await self._read(pod)) is None:
            return
        if ended is None:
            cause, why = "absent", "it had no workflow: the start was lost, or Temporal has forgotten the workflow"
        else:
            cause = ended.status.name.lower() if ended.status else "unknown"
            why = f"its workflow {await executions.ending(self._client, ended)}"
        found.starts += 1
        found.not_before = now + min(_MAX_PAUSE_S, self._interval_s * 2 ** (found.starts - 1))
        await self._start(fresh, cause, why, self._warm_pods.start_again)
        found.open_since = now

    async def _replace(self, pod: PodFacts, execution: WorkflowExecution) -> None:
        generation = await executions.generation(execution)
        if (fresh := await self._read(pod)) is None:
            return
        why = f"its workflow was of another version of Kube-Cache (generation {generation})"
        await self._start(fresh, "generation", why, self._warm_pods.replace)

    async def _start(self, pod: PodFacts, cause: str, why: str, start: Callable[[PodFacts], Awaitable[None]]) -> None:
        # Before the start: afterwards the workflow speaks for the Pod.
        await self._reporter.tell(pod.ref, Phase.RESOLVING, f"{why}; it is started again", event="WorkflowRestarted")
        await self._delete_seats(pod)
        try:
            await start(pod)
        except WorkflowAlreadyStartedError:
            return
        metrics.WORKFLOWS_RESTARTED.labels(cause).inc()

    async def _end_old(self, execution: WorkflowExecution) -> None:
        """Terminate the workflow of another generation whose Pod needs none: nobody can replay it."""
        generation = await executions.generation(execution)
        try:
            ref = PodRef(*names.parse_warm_pod_id(execution.id))
        except ValueError:
            return  # not ours
        try:
            facts = self._watcher.read_facts(await asyncio.to_thread(gate.read_pod, self._kube, ref))
        except PodGone:
            facts = None
        if facts is not None and facts.needs_workflow:
            return  # the watch is about to show the Pod
        try:
            await self._client.get_workflow_handle(execution.id, run_id=execution.run_id).terminate(
                reason=f"of another version of Kube-Cache (generation {generation}), and its Pod needs none"
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
        metrics.WORKFLOWS_RESTARTED.labels("ended").inc()

    async def _read(self, pod: PodFacts) -> PodFacts | None:
        """Ask the API server itself; None if the Pod needs no workflow any more, or is being deleted."""
        try:
            facts = self._watcher.read_facts(await asyncio.to_thread(gate.read_pod, self._kube, pod.ref))
        except PodGone:
            return None
        return facts if facts is not None and facts.needs_workflow and not facts.view.deleting else None

    async def _delete_seats(self, pod: PodFacts) -> None:
        """Delete the seats that the last run has left. The next run counts from one again, and takes that one over."""
        first = names.seat_name(pod.ref.uid, 1)
        for name in self._watcher.seats_of(pod.workflow_id):
            if name != first:
                await asyncio.to_thread(seats.delete, self._kube, self._seat_namespace, name)

    def _note_open(self, workflow_id: str) -> None:
        found = self._found.get(workflow_id)
        if found is None:
            return
        now = asyncio.get_running_loop().time()
        found.open_since = found.open_since or now
        if now - found.open_since > _MAX_PAUSE_S:
            del self._found[workflow_id]

    def _measure(self, gated: Collection[PodFacts]) -> None:
        now = asyncio.get_running_loop().time()
        waiting = [now - found.since for found in self._found.values() if not found.open_since]
        ages = [_age_s(pod) for pod in gated]
        metrics.set_as_leader(metrics.UNATTENDED_PODS, len(waiting))
        metrics.set_as_leader(metrics.UNATTENDED_SECONDS, max(waiting, default=0))
        metrics.show_counts(metrics.GATED_PODS, PHASES, Counter(pod.phase for pod in gated))
        metrics.set_as_leader(metrics.OLDEST_GATED_SECONDS, max(ages, default=0))


def _age_s(pod: PodFacts) -> float:
    """Seconds since the Pod was created, by the API server's clock and ours; 0 if the watch does not tell."""
    return (datetime.now(UTC) - datetime.fromisoformat(pod.created)).total_seconds() if pod.created else 0.0
