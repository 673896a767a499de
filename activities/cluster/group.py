"""`join_group` and `find_group`: a `WarmPod` speaks to its group, and the group looks at its Pods. Operator queue.

Both are local activities. The look costs no request: the operator's watches know all gated and released Pods.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.group import FindGroupInput, FindGroupResult, JoinGroupInput, WaitingPod
from kube_cache.errors import NotSynced
from kube_cache.kube.pods import PodFacts
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.executions import signal_if_running
from kube_cache.temporal.search_attributes import initial

_RPC_TIMEOUT = timedelta(seconds=10)
# More than a message names, so that some are left when those that have arrived meanwhile are taken out.
_MAX_WAITING = 20
_MAX_DIGESTS = 20


class GroupActivities:
    def __init__(self, client: Client, get_group: Callable[[str, str], list[PodFacts] | None]) -> None:
        """get_group: Pods of a namespace that name a group, as the watches have them; None before the first list."""
        self._client = client
        self._get_group = get_group

    @activity.defn(name=names.JOIN_GROUP)
    @as_application_errors
    async def join_group(self, arg: JoinGroupInput) -> None:
        """Signal the group, and start it if it does not run. A group that has ended need not hear that a member leaves.

        Running twice is harmless: the group keeps its members by workflow id.
        """
        group = arg.group
        workflow_id = names.pod_group_id(group.namespace, group.group)
        if arg.leave:
            await signal_if_running(self._client, workflow_id, "leave", arg.member)
            return
        await self._client.start_workflow(
            names.POD_GROUP,
            group,
            id=workflow_id,
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="join",
            start_signal_args=[arg.member],
            search_attributes=initial(phase=Phase.WAITING_FOR_GROUP, dataset="", namespace=group.namespace),
            static_summary=f"group {group.namespace}/{group.group}",
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=_RPC_TIMEOUT,
        )

    @activity.defn(name=names.FIND_GROUP)
    @as_application_errors
    async def find_group(self, arg: FindGroupInput) -> FindGroupResult:
        """Look at the Pods that name the group. Reads only, so running twice is harmless. Raises NotSynced."""
        found = self._get_group(arg.namespace, arg.group)
        if found is None:
            raise NotSynced("the operator has not listed the Pods yet")
        known = {pod.workflow_id for pod in found}
        living = [pod for pod in found if not pod.ended and not pod.view.deleting]
        gated = {pod.workflow_id: pod for pod in living if pod.view.gated}
        running = [pod for pod in living if not pod.view.gated]
        waiting = [
            WaitingPod(workflow_id, pod.ref.name, pod.phase)
            for workflow_id, pod in sorted(gated.items())
            if pod.phase != Phase.WAITING_FOR_GROUP
        ]
        digests = sorted({digest for pod in running for digest in pod.receipt.digests})
        return FindGroupResult(
            len(running),
            waiting[:_MAX_WAITING],
            absent=[workflow_id for workflow_id in arg.members if workflow_id not in known],
            gone=[workflow_id for workflow_id in arg.members if workflow_id in known - gated.keys()],
            running_digests=digests[:_MAX_DIGESTS],
        )
