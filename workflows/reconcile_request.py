"""`ReconcileRequest`: a node whose agent has asked for a reconcile, until one has visited it.

A run of the reconcile visits some of a large cluster's nodes only, and nobody can tell a run that is under way of one
more. So the request stays open in Temporal, where the survey of each run finds it: an operator that dies, or an agent
that is away, loses none. It ends when a visit that began after the last request has succeeded.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.reconcile import NodeVisited, ReconcileRequestInput

# A node whose agent has not answered for so long has its turn like the others, and asks again when it is back.
_MAX_AGE = timedelta(days=1)


@workflow.defn(name=names.RECONCILE_REQUEST)
class ReconcileRequest:
    def __init__(self) -> None:
        self._asked_at = workflow.now().timestamp()
        self._visited_at = 0.0

    @workflow.run
    async def run(self, _arg: ReconcileRequestInput) -> bool:
        """Return whether the node was visited."""
        try:
            await workflow.wait_condition(lambda: self._visited_at > self._asked_at, timeout=_MAX_AGE)
        except TimeoutError:
            return False
        return True

    @workflow.signal(description="From the agent: visit the node, for the reason that is given.")
    def ask(self, reason: str) -> None:
        self._asked_at = workflow.now().timestamp()
        workflow.set_current_details(f"asked for: {reason}")

    @workflow.signal(description="From the reconcile: the node was visited.")
    def visited(self, visit: NodeVisited) -> None:
        self._visited_at = max(self._visited_at, visit.began_at)
