"""Prefetches that are resources: each has its workflow, with its specification, and says on itself how far that is.

Level-triggered: a look compares the resource with what Temporal knows and does what is missing, whatever went before:
an edit, a workflow that somebody terminated, an operator that died. A watch says when a look is due at once. A resource
needs no finalizer, which might hang: the watch tells of a deletion, and a deletion that it misses is found by the sweep
among the workflows, each of which names its resource. Decides nothing about nodes and data: the workflow does. Only the
leading operator acts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import PodRef, Policy
from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchSpec, PrefetchStatus
from kube_cache.errors import InvalidRequest, KubeCacheError
from kube_cache.kube import events, prefetches
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.kube.prefetches import PrefetchResource
from kube_cache.kube.reflector import MAX_STILL_S, Reflector
from kube_cache.temporal import executions
from kube_cache.temporal.prefetches import Seen, observe, start_prefetch
from watcher import prefetch_windows as windows
from watcher.prefetch_status import ENDED, compose, is_due

_log = structlog.get_logger("kube_cache.prefetches")
_TICK_S = 1.0
# Between two looks at one resource, seconds: each is a query of its workflow.
_ACTIVE_S, _REST_S, _AGAIN_S = 3.0, 15.0, 10.0
# Added for each resource that there is, so that a thousand at rest are ten looks a second at most.
_REST_EACH_S = 0.1
_LOOKS_AT_ONCE = 8
# Between two looks for the kind, in a cluster that does not have it: soon after an installation, then seldom.
_MIN_KIND_S, _MAX_KIND_S = 0.5, 30.0
# Of a workflow that ends each time that it is started.
_MIN_PAUSE_S, _MAX_PAUSE_S = 5.0, 600.0
_AT_REST = frozenset({PrefetchPhase.READY, PrefetchPhase.PAUSED, PrefetchPhase.AWAITING_OPERATOR, *ENDED})
_UNHEARD = (RPCError, WorkflowQueryFailedError, WorkflowFailureError)


@dataclass
class _Restarts:
    count: int = 0
    not_before: float = 0.0
    """Time of the event loop, seconds."""


def decide(resource: PrefetchResource, spec: PrefetchSpec, seen: Seen) -> str:
    """Say what is missing: `start`, `apply`, `pause`, `resume`; empty if nothing is."""
    answer = seen.answer
    if seen.runs and answer is not None:
        if answer.spec != spec:
            return "apply"
        if answer.paused != resource.is_paused:
            return "pause" if resource.is_paused else "resume"
        return ""
    if answer is not None:  # it came to its end with a specification, and another one is another prefetch
        return "" if answer.spec == spec else "start"
    status = resource.status
    if not seen.broken and status.get("phase") in ENDED and status.get("observedGeneration") == resource.generation:
        return ""  # Temporal has forgotten what has ended
    return "start"


class Prefetches:
    """Belongs to one event loop."""

    def __init__(
        self,
        client: Client,
        kube: KubeClient,
        policy: Policy,
        is_leading: Callable[[], bool],
        *,
        sweep_interval_s: float,
    ) -> None:
        self._client = client
        self._kube = kube
        self._policy = policy
        self._windows = windows.Windows(client, kube, policy)
        self._is_leading = is_leading
        self._sweep_interval_s = sweep_interval_s
        self._loop = asyncio.get_running_loop()
        self._reflector: Reflector[PrefetchResource] = Reflector(
            kube,
            names.PREFETCHES,
            name="prefetches",
            project=prefetches.read,
            handler=lambda kind, item: self._loop.call_soon_threadsafe(self._on_event, kind, item),
        )
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._woken = asyncio.Event()
        self._due: dict[str, float] = {}
        """Uid -> when the next look is due, by the event loop's clock; at once for one that is not in it."""
        self._seen: dict[str, tuple[int, bool]] = {}
        """Uid -> generation, and whether it is being deleted, by the last event."""
        self._written: dict[str, float] = {}
        """Uid -> when its status was written last, by the event loop's clock."""
        self._restarts: dict[str, _Restarts] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._sweep_at = 0.0

    async def run(self) -> None:
        """Look after the resources while this operator leads. Raises RuntimeError if the watch dies."""
        try:
            await self._await_kind()
            self._thread = threading.Thread(
                target=self._reflector.run, args=(self._stopping,), name="prefetches", daemon=True
            )
            self._thread.start()
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), _TICK_S)
                self._woken.clear()
                if not self._thread.is_alive() or self._reflector.still_s() > MAX_STILL_S:
                    raise RuntimeError("the watch of prefetches has died")
                if self._is_leading():
                    self._begin_looks()
        finally:
            self._stopping.set()
            for task in self._busy.values():
                task.cancel()

    async def _await_kind(self) -> None:
        """Return once the cluster has the kind. Without it all else of the operator works."""
        told, backoff = False, Backoff(_MIN_KIND_S, _MAX_KIND_S)
        while True:
            why = "the chart, or deploy/deploy.yaml, of this version brings it"
            try:
                if await asyncio.to_thread(prefetches.is_installed, self._kube):
                    return
            except ApiError as error:
                why = error.message
            if not told:
                _log.info("no prefetches by kubectl: the kind Prefetch cannot be listed", reason=why)
            told = True
            await asyncio.sleep(backoff.next_s())

    def _on_event(self, kind: str, resource: PrefetchResource) -> None:
        uid = resource.uid
        if kind == "DELETED":
            for kept in (self._due, self._seen, self._written, self._restarts):
                kept.pop(uid, None)
            if self._is_leading():
                self._begin(f"end {uid}", self._end(resource))
            return
        now = (resource.generation, resource.deleting)
        if self._seen.get(uid) != now:  # our own writes of the status are events, too
            self._seen[uid] = now
            self._due.pop(uid, None)
            self._restarts.pop(uid, None)
            self._woken.set()

    def _begin_looks(self) -> None:
        now = self._loop.time()
        for resource in self._reflector.all():
            if self._due.get(resource.uid, 0.0) <= now:
                self._begin(resource.uid, self._look(resource.uid))
        if now >= self._sweep_at and self._reflector.synced.is_set():
            self._sweep_at = now + self._sweep_interval_s
            self._begin("sweep", self._sweep())

    def _begin(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it in a task of its own, unless it is being done. An error is logged: the next look is owed."""
        if key in self._busy:
            work.close()
            return
        task = asyncio.create_task(self._try(key, work))
        self._busy[key] = task
        task.add_done_callback(lambda _: self._busy.pop(key, None))

    async def _try(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (KubeCacheError, *_UNHEARD) as error:
            _log.warning("cannot look after a prefetch; looking again", of=key, error=str(error))
        except Exception:  # one resource must not keep the others from their looks
            _log.exception("cannot look after a prefetch; looking again", of=key)

    async def _look(self, uid: str) -> None:
        async with self._slots:
            resource = self._reflector.get(uid)
            if resource is None:
                return
            self._due[uid] = self._loop.time() + _AGAIN_S  # of a look that fails
            rest_s = await self._bring_in_line(resource)
            if self._seen.get(uid) == (resource.generation, resource.deleting):  # else it has changed meanwhile
                self._due[uid] = self._loop.time() + rest_s
            else:
                self._due.pop(uid, None)

    async def _bring_in_line(self, resource: PrefetchResource) -> float:
        """Do what is missing, and tell. Return the seconds to the next look. Raises ApiError."""
        if resource.deleting:  # a finalizer of somebody else holds it
            await self._end(resource)
            return _REST_S
        try:
            spec, schedule = prefetches.specification(resource), prefetches.schedule(resource)
            window = await self._windows.keep(resource, spec, schedule)
            seen = await observe(self._client, resource.namespace, resource.prefetch)
            if schedule is None or window is None:
                step = decide(resource, spec, seen)
            else:
                step, spec = windows.decide(resource, spec, seen, window, schedule.window_s, time.time())
            if step:
                if not self._may_start(resource.uid, seen):
                    return _ACTIVE_S
                if seen.broken:
                    await self._tell_restart(resource, seen.broken)
                await self._take(step, resource, spec)
                seen = await observe(self._client, resource.namespace, resource.prefetch)
        except InvalidRequest as error:
            await self._tell(resource, None, ("SpecRefused", error.message))
            return _REST_S
        except _UNHEARD as error:
            await self._tell(resource, None, ("TemporalUnavailable", str(error)))
            return _AGAIN_S
        if window is not None and not seen.runs:
            await self._tell(resource, None, next_at=window.next_at)
            return windows.rest_s(window, _REST_S + _REST_EACH_S * len(self._seen))
        if not await self._tell(resource, seen.answer, next_at=window and window.next_at):
            return _ACTIVE_S
        if seen.answer is not None and seen.answer.phase in _AT_REST:
            return _REST_S + _REST_EACH_S * len(self._seen)
        return _ACTIVE_S

    def _may_start(self, uid: str, seen: Seen) -> bool:
        """Whether a workflow that was ended may be started now: one that ends each time must not loop."""
        if not seen.broken:
            return True
        now, restarts = self._loop.time(), self._restarts.setdefault(uid, _Restarts())
        if now < restarts.not_before:
            return False
        if now - restarts.not_before > _MAX_PAUSE_S:
            restarts.count = 0
        restarts.not_before = now + min(_MAX_PAUSE_S, _MIN_PAUSE_S * 2.0**restarts.count)
        restarts.count += 1
        return True

    async def _take(self, step: str, resource: PrefetchResource, spec: PrefetchSpec) -> None:
        """Raises RPCError."""
        _log.info("a resource asks its prefetch", prefetch=f"{resource.namespace}/{resource.name}", step=step)
        if step in ("start", "apply"):
            await start_prefetch(self._client, spec, self._policy, paused=resource.is_paused, resource=resource.uid)
            if step == "start":
                return
            step = "pause" if resource.is_paused else "resume"
        workflow = names.prefetch_id(resource.namespace, resource.prefetch)
        await executions.signal_if_running(self._client, workflow, step)

    async def _tell(
        self,
        resource: PrefetchResource,
        answer: PrefetchStatus | None,
        problem: tuple[str, str] | None = None,
        next_at: float | None = None,
    ) -> bool:
        """Write the status where that is due; False if somebody was faster. Raises ApiError."""
        status = compose(resource, answer, time.time(), problem=problem, next_at=next_at)
        now = self._loop.time()
        since_s = now - self._written.get(resource.uid, float("-inf"))
        if not is_due(resource.status, status, since_s):
            return True
        done = await asyncio.to_thread(prefetches.write_status, self._kube, resource, status)
        if done and resource.uid in self._seen:
            self._written[resource.uid] = now
        return done

    async def _tell_restart(self, resource: PrefetchResource, how: str) -> None:
        ref = PodRef(resource.namespace, resource.name, resource.uid)
        _log.warning("a prefetch is started again", prefetch=f"{ref.namespace}/{ref.name}", reason=how)
        await asyncio.to_thread(
            events.emit, self._kube, ref, reason="WorkflowRestarted", note=f"its workflow {how}; it is started again",
            action="Restart", warning=True, kind=(names.API_VERSION, names.PREFETCH_KIND),
        )  # fmt: skip

    async def _end(self, resource: PrefetchResource) -> None:
        """Have the workflow of a resource that is gone let its data go. Raises RPCError: the sweep is next."""
        await self._windows.drop(resource)
        workflow = names.prefetch_id(resource.namespace, resource.prefetch)
        await executions.signal_if_running(self._client, workflow, "cancel")

    async def _sweep(self) -> None:
        """End what no resource asks for any more. Raises RPCError, ApiError."""
        known = {resource.uid for resource in self._reflector.all()}
        if not await asyncio.to_thread(prefetches.is_installed, self._kube):
            return  # a server that starts may not know its kinds yet; each workflow ends by itself
        await self._windows.sweep(self._reflector.get)
        async for execution in executions.running(self._client, names.PREFETCH):
            uid = await execution.memo_value(names.RESOURCE_MEMO, "")
            if not uid or uid in known:
                continue
            try:
                namespace, prefetch = names.parse_prefetch_id(execution.id)
            except ValueError:  # started by hand under another id
                continue
            name = names.parse_resource_prefetch(prefetch)
            found = await asyncio.to_thread(prefetches.find, self._kube, namespace, name)
            if found is None or found.uid != uid:
                _log.info("a prefetch's resource is gone; it ends", prefetch=f"{namespace}/{prefetch}")
                await executions.signal_if_running(self._client, execution.id, "cancel")
