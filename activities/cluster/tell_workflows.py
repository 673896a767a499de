"""`tell_workflows`: the part of a reconcile that needs no disk. Operator queue.

A workflow is told what it may have missed: `pod_gone`, `pod_bound`, `resync`; an entity, that a Pod is gone; and a seat
whose workflow has ended is deleted. What must be told is told in each run. Who only might have missed something has its
turn, some hundreds a run and no faster than a few dozen a second, because each signal costs a workflow task, and ten
thousand Pods may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog
from temporalio import activity
from temporalio.client import Client

from activities.cluster.consumers import let_go
from activities.cluster.heartbeats import at_once, heartbeats
from activities.cluster.shards import in_turn
from activities.cluster.survey import Survey, Surveys, skip
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.reconcile import SurveyRef, TellResult
from kube_cache.contracts.warm_pod import PodBound
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient
from kube_cache.temporal import executions

_log = structlog.get_logger("kube_cache.reconcile")
# `WarmPod`s that wait and are asked to look, and entities that are asked for their consumers, a run. At 10,000 and
# 15,000 of them and the default interval each has its turn within 50 and 150 minutes.
_RESYNCS = 1000
_QUERIES = 500
# A signal is a workflow task, and often a request to the API server: no more of them than leaves room for releases.
_SIGNALS_PER_S = 50
# In these phases a workflow asks by itself (workflows/warm_pod/node_data.py) or waits for no signal of the watcher.
_ASK_THEMSELVES = frozenset({Phase.RESOLVING, Phase.CHECKING, Phase.WARMING, Phase.RELEASING, Phase.WAITING_FOR_DISK})
_SEATED = frozenset({Phase.PLACING, Phase.WAITING_FOR_CAPACITY})


@dataclass
class _Count:
    signalled: int = 0
    deleted: int = 0
    skipped: int = 0


class TellWorkflows:
    def __init__(self, kube: KubeClient, client: Client, surveys: Surveys, *, seat_namespace: str) -> None:
        self._kube = kube
        self._client = client
        self._surveys = surveys
        self._seat_namespace = seat_namespace

    @activity.defn(name=names.TELL_WORKFLOWS)
    @as_application_errors
    async def tell_workflows(self, ref: SurveyRef) -> TellResult:
        """Tell the workflows what they may have missed, and delete seats without a workflow.

        Every signal can be sent twice, so running twice is harmless. Raises RPCError, ApiError.
        """
        async with heartbeats():
            survey = await self._surveys.get(ref)
            count = _Count()
            try_ = _trying(count)
            await at_once(
                try_("seat", name, self._delete_if_ended(name, owner, count)) for owner, name in _orphans(survey)
            )
            await at_once(
                try_("warm_pod", each, self._tell_end(each, survey, count))
                for each in survey.warm_pods
                if _has_ended(survey, each)
            )
            await at_once(try_("entity", each, self._let_go(each, survey, count)) for each in self._asked(survey, ref))
            for each in _must_look(survey, ref.turn):
                await try_("warm_pod", each, self._signal(each, "resync", count))
                await asyncio.sleep(1 / _SIGNALS_PER_S)
        return TellResult(count.signalled, count.deleted, count.skipped)

    async def _tell_end(self, workflow_id: str, survey: Survey, count: _Count) -> None:
        node = survey.pods.nodes.get(names.parse_warm_pod_id(workflow_id).uid)
        if node is None:
            await self._signal(workflow_id, "pod_gone", count)
        else:
            await self._signal(workflow_id, "pod_bound", count, PodBound(node))

    async def _signal(self, workflow_id: str, name: str, count: _Count, arg: object | None = None) -> None:
        await executions.signal_if_running(self._client, workflow_id, name, arg)
        count.signalled += 1

    async def _let_go(self, entity: str, survey: Survey, count: _Count) -> None:
        count.signalled += await let_go(self._client, entity, lambda uid: uid not in survey.pods.nodes)

    async def _delete_if_ended(self, name: str, workflow_id: str, count: _Count) -> None:
        if await executions.has_ended(self._client, workflow_id):
            _log.warning("deleting a seat whose workflow has ended", seat=name, workflow=workflow_id)
            await asyncio.to_thread(seats.delete, self._kube, self._seat_namespace, name)
            count.deleted += 1

    @staticmethod
    def _asked(survey: Survey, ref: SurveyRef) -> list[str]:
        ids = (
            names.dataset_on_node_id(node, each.cache_id, each.digest)
            for node, entities in survey.entities.items()
            for each in entities
        )
        return in_turn(ids, ref.turn, _QUERIES)


def _trying(count: _Count) -> Callable[[str, str, Awaitable[None]], Awaitable[None]]:
    async def attempt(kind: str, thing: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # whatever it is: the others are owed their turn, and the next run tries again
            count.skipped += 1
            skip(kind, thing, repr(error))

    return attempt


def _orphans(survey: Survey) -> list[tuple[str, str]]:
    """(Workflow id, name) of the seats whose workflow was not open when the workflows were listed."""
    return [(owner, seat.name) for owner, its in survey.seats.items() if owner not in survey.warm_pods for seat in its]


def _has_ended(survey: Survey, workflow_id: str) -> bool:
    """Whether the Pod is gone, has ended, or is bound: its workflow should be about to end."""
    return survey.pods.nodes.get(names.parse_warm_pod_id(workflow_id).uid) != ""


def _must_look(survey: Survey, turn: int) -> Iterable[str]:
    """`WarmPod`s that have missed a signal as far as the survey tells, then those whose turn it is."""
    waiting = [
        each
        for each, phase in survey.warm_pods.items()
        if phase not in _ASK_THEMSELVES and not _has_ended(survey, each)
    ]
    overdue = [each for each in waiting if _has_missed(survey, each)]
    return dict.fromkeys([*in_turn(overdue, turn, _RESYNCS), *in_turn(waiting, turn, _RESYNCS)])


def _has_missed(survey: Survey, workflow_id: str) -> bool:
    """Whether the seat is bound or gone, or the other gates are, and the workflow waits all the same."""
    phase = survey.warm_pods[workflow_id]
    if phase in _SEATED:
        standing = survey.seats.get(workflow_id, [])
        return not standing or any(seat.node for seat in standing)
    if phase == Phase.WAITING_FOR_GATES:
        return survey.pods.gated.get(names.parse_warm_pod_id(workflow_id).uid) is False
    return False
