"""`survey_cluster`, `plan_shard`, `settle_node`: what should be on each node, as the cluster has it. Operator queue.

Each reads the run's survey in memory (activities.cluster.survey). What cannot be read or signalled is left out, logged
and counted: one bad workflow must not keep the reconcile from the others.
"""

from __future__ import annotations

from temporalio import activity
from temporalio.client import Client

from activities.cluster import shards
from activities.cluster.consumers import let_go
from activities.cluster.heartbeats import at_once, heartbeats
from activities.cluster.survey import Survey, Surveys, skip
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.reconcile import (
    SettleInput,
    SettleResult,
    ShardInput,
    ShardPlan,
    SurveyRef,
    SurveyResult,
)


class ReconcileActivities:
    def __init__(self, client: Client, surveys: Surveys) -> None:
        self._client = client
        self._surveys = surveys

    @activity.defn(name=names.SURVEY_CLUSTER)
    @as_application_errors
    async def survey_cluster(self, ref: SurveyRef) -> SurveyResult:
        """Make the run's survey. Reads only, so running twice is harmless. Raises RPCError, ApiError."""
        survey = await self._survey(ref)
        return SurveyResult(
            shards=shards.count_shards(survey, ref),
            nodes=len(survey.nodes),
            pods=len(survey.pods.nodes),
            entities=sum(map(len, survey.entities.values())),
            warm_pods=len(survey.warm_pods),
            skipped=survey.skipped,
        )

    @activity.defn(name=names.PLAN_SHARD)
    @as_application_errors
    async def plan_shard(self, arg: ShardInput) -> ShardPlan:
        """Say how a shard's nodes should be. Only reads, so running twice is harmless. Raises RPCError, ApiError."""
        return shards.plan(await self._survey(arg.survey), arg)

    @activity.defn(name=names.SETTLE_NODE)
    @as_application_errors
    async def settle_node(self, arg: SettleInput) -> SettleResult:
        """Say which doubtful pins go and who runs on what was lost; tell the node's entities of Pods that are gone.

        A pin of a Pod that is gone means that its end was told to nobody. Every signal can be sent twice, so running
        twice is harmless. Raises RPCError, ApiError.
        """
        survey = await self._survey(arg.shard.survey)
        ended = shards.judge(survey, arg)
        users = shards.users_of(survey, arg)
        if not ended:
            return SettleResult([], users)
        gone = {uid for uid in ended if uid not in survey.pods.nodes}
        ids = [
            names.dataset_on_node_id(arg.node, each.cache_id, each.digest) for each in survey.entities.get(arg.node, [])
        ]
        async with heartbeats():
            told = await at_once(self._tell(each, gone) for each in ids)
        return SettleResult(ended, users, skipped=told.count(False))

    async def _tell(self, entity: str, gone: set[str]) -> bool:
        try:
            await let_go(self._client, entity, gone.__contains__)
        except Exception as error:  # its workflow task fails, or Temporal is busy: its turn comes again
            skip("entity", entity, repr(error))
            return False
        return True

    async def _survey(self, ref: SurveyRef) -> Survey:
        async with heartbeats():
            return await self._surveys.get(ref)
