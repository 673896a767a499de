"""Whoever looks for consumers whose Pods are gone takes no prefetch for one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from activities.cluster.consumers import let_go
from kube_cache.contracts.common import Consumer, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus


def test_a_prefetch_is_no_pod_that_could_be_gone() -> None:
    gone = Consumer("warm/ml/gone/1", PodRef("ml", "gone", "1"))
    prefetch = Consumer("prefetch/ml/nightly", PodRef("ml", "", ""), prefetch=True)
    sent: list[Any] = []

    async def query(_name: str, **_: Any) -> DatasetOnNodeStatus:
        return DatasetOnNodeStatus("Warming", [gone, prefetch])

    async def signal(name: str, args: list[Any], **_: Any) -> None:
        sent.append((name, *args))

    client: Any = SimpleNamespace(get_workflow_handle=lambda _: SimpleNamespace(query=query, signal=signal))
    assert asyncio.run(let_go(client, "dataset/n/d/x", lambda _uid: True)) == 1
    assert sent == [("leave", gone)]
