"""`move_receipt`: let the receipt of a Pod name the node where it was bound. Operator queue, local activity."""

from __future__ import annotations

import asyncio

import structlog
from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import MoveReceiptInput
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, KubeClient, is_not_found, pod_path

_log = structlog.get_logger("kube_cache.receipt")


class MoveReceipt:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.MOVE_RECEIPT)
    @as_application_errors
    async def move_receipt(self, arg: MoveReceiptInput) -> None:
        """Write node, disk and snapshots over those of the release. Running twice writes the same.

        A missing Pod is no error: the workflow is told of its end. Raises ApiError.
        """
        await asyncio.to_thread(self._move, arg)

    def _move(self, arg: MoveReceiptInput) -> None:
        receipt = pods.receipt_annotations(arg.node, arg.cache_id, arg.digests)
        body = {"metadata": {"uid": arg.pod.uid, "annotations": receipt}}
        try:
            self._kube.patch(pod_path(arg.pod.namespace, arg.pod.name), body)
        except ApiError as error:
            is_another = error.status in (409, 422) and "uid" in error.message.lower()
            if not (is_not_found(error) or is_another):
                raise
            _log.info("no Pod whose receipt could be moved")
