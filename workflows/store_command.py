"""`StoreCommand`: carries one `kube-cache store --node` request to the node's agent, and the response back."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
    from workflows import node_calls
    from workflows.failures import AGENT_LOST, error_info


@workflow.defn(name=names.STORE_COMMAND)
class StoreCommand:
    @workflow.run
    async def run(self, request: StoreRequest) -> StoreResponse:
        try:
            return await node_calls.run_store_command(request)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error, node=request.node)
            if info.type == AGENT_LOST:
                text = f"no living agent on node {request.node}; is its name right, and does its agent run?"
                return StoreResponse(ExitCode.UNREACHABLE, message=text)
            if info.type == "Timeout":
                text = f"the agent on node {request.node} went away meanwhile: {info.message}"
                return StoreResponse(ExitCode.UNREACHABLE, message=text)
            return StoreResponse(ExitCode.FAILED, message=info.message)
