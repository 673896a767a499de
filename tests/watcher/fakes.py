"""Pods and seats as Kubernetes shows them, and the three parties of the watcher: API server, starter, Temporal."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from temporalio.api.common.v1 import GrpcStatus
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef
from kube_cache.kube.client import ApiError
from kube_cache.kube.pods import PodFacts

WARM = "warm/ml/train/uid-1"
"""Workflow id of `pod()`."""


def pod(
    *, gates: tuple[str, ...] = (names.GATE,), node: str = "", phase: str = "Pending", **annotations: str
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "namespace": "ml",
        "name": "train",
        "uid": "uid-1",
        "annotations": {names.DATASET_ANNOTATION: "s3://models/gpt", **annotations},
    }
    if names.SNAPSHOT_ANNOTATION in annotations:
        meta["labels"] = {names.MANAGED_LABEL: "true"}
    spec: dict[str, Any] = {"schedulingGates": [{"name": gate} for gate in gates]}
    if node:
        spec["nodeName"] = node
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def released(**more: Any) -> dict[str, Any]:
    receipt = {names.SNAPSHOT_ANNOTATION: "aa,bb", names.NODE_ANNOTATION: "gpu-1", names.CACHE_ID_ANNOTATION: "disk"}
    return pod(gates=(), **{**receipt, **more})


def seat(*, node: str = "", deleted: bool = False, disrupted: bool = False) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "name": "seat-uid-1-1",
        "namespace": "kube-cache-seats",
        "uid": "seat-uid",
        "annotations": {names.SEAT_WORKFLOW_ANNOTATION: WARM},
    }
    if deleted:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    return {
        "metadata": meta,
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending", "conditions": conditions},
    }


class FakeKube:
    """Answers a GET with the Pod that the API server would have."""

    def __init__(self, pod: dict[str, Any] | None = None) -> None:
        self.pod = pod

    def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
        if self.pod is None:
            raise ApiError(404, "NotFound", f"pods {name!r} not found in {namespace}")
        return self.pod


class FakeStarter:
    """Records the starts and signals that are asked for; no activity waits."""

    def __init__(self, *, leading: bool = True) -> None:
        self.leading = leading
        self.said: list[tuple[str, str]] = []
        """(`start` or the signal's name, workflow id)."""
        self.args: list[Any] = []

    def start(self, pod: PodFacts) -> None:
        self.said.append(("start", pod.workflow_id))
        self.args.append(pod.view)

    def signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        self.said.append((name, workflow_id))
        self.args.append(arg)

    def signal_later(self, workflow_id: str, name: str, arg: object, is_current: Callable[[], bool]) -> None:
        self.signal(workflow_id, name, arg)

    def is_awaited(self, workflow_id: str) -> bool:
        return False

    def has_pending(self, workflow_id: str) -> bool:
        return False


class FakeReporter:
    """Records what is told on Pods."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        """(Event's reason, message)."""

    async def tell(self, ref: PodRef, phase: Phase, message: str, *, event: str) -> None:
        self.told.append((event, message))


def no_namespace() -> RPCError:
    """What a server answers that does not know the namespace, as it was seen."""
    failure = GrpcStatus(code=RPCStatusCode.NOT_FOUND, message="Namespace kube-cache is not found.")
    failure.details.add().type_url = "type.googleapis.com/temporal.api.errordetails.v1.NamespaceNotFoundFailure"
    return RPCError(failure.message, RPCStatusCode.NOT_FOUND, failure.SerializeToString())


class FakeTemporal:
    """Records the starts and signals that arrive; the first `failures` calls find no server."""

    def __init__(
        self,
        *,
        failures: int = 0,
        failure: RPCError | None = None,
        absent: tuple[str, ...] = (),
        refusal: str = "",
    ) -> None:
        """absent: ids of workflows that cannot be signalled. refusal: message with which each start is refused."""
        self.said: list[tuple[str, str]] = []
        """(`start` or the signal's name, workflow id)."""
        self.args: list[Any] = []
        self._failures = failures
        self._failure = failure or RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")
        self._absent = absent
        self._refusal = refusal
        self.starts: list[dict[str, Any]] = []
        """Options of each start that was asked for."""
        self._running: set[str] = set()

    async def start_workflow(self, workflow: str, arg: Any, *, id: str, **options: Any) -> None:  # noqa: A002 -- the SDK's word
        self._fail()
        self.starts.append(options)
        if self._refusal:
            raise RPCError(self._refusal, RPCStatusCode.INVALID_ARGUMENT, b"")
        if id in self._running:
            raise WorkflowAlreadyStartedError(id, workflow)
        self._running.add(id)
        self.said.append(("start", id))
        self.args.append(arg)

    def get_workflow_handle(self, workflow_id: str) -> Any:
        async def signal(name: str, *, args: list[Any], **_: Any) -> None:
            self._fail()
            if workflow_id in self._absent:
                raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
            self.said.append((name, workflow_id))
            self.args.append(args[0] if args else None)

        return SimpleNamespace(signal=signal)

    async def list_workflows(self, _query: str) -> Any:
        """No dataset is on any node."""
        for execution in ():
            yield execution

    def _fail(self) -> None:
        if self._failures:
            self._failures -= 1
            raise self._failure
