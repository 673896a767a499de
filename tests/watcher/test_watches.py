"""The gated Pods as the watches know them, read from any thread."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kube.fakes import EMPTY_LIST, Answer, api_server, watch_line
from tests.watcher.fakes import FakeKube, FakeStarter, pod, released
from tools.stack.waiting import true as until
from watcher.pods import PodWatcher
from watcher.watches import Watches


def _versioned(item: dict[str, Any], version: str) -> dict[str, Any]:
    item["metadata"]["resourceVersion"] = version
    return item


def test_a_gated_pod_is_known_without_managed_fields_until_it_is_released() -> None:
    gated = _versioned(pod(), "6")
    gated["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    release = threading.Event()

    def answer(path: str, _: int) -> Answer:
        query = parse_qs(urlsplit(path).query)
        if query["labelSelector"] != ["kube-cache.openai.com/managed!=true"]:
            return 200, b"" if "watch" in query else EMPTY_LIST, {}
        if "watch" not in query:
            return 200, json.dumps({"items": [gated], "metadata": {"resourceVersion": "6"}}).encode(), {}
        if query["resourceVersion"] == ["6"]:
            release.wait(10)
            return 200, watch_line("DELETED", _versioned(released(), "7")), {}
        return 200, b"", {}

    async def run(client: Any) -> None:
        watches = Watches(client, PodWatcher(FakeKube(), FakeStarter()), seat_namespace="seats")  # type: ignore[arg-type]
        stopping = threading.Event()
        watches.start(stopping)
        try:
            await asyncio.to_thread(until, lambda: watches.get_gated_pod("uid-1"), "the watch knows the Pod")
            known = watches.get_gated_pod("uid-1")
            assert known is not None
            assert known["spec"] == gated["spec"]
            assert "managedFields" not in known["metadata"]
            assert watches.get_gated_pod("uid-2") is None
            release.set()
            await asyncio.to_thread(until, lambda: not watches.get_gated_pod("uid-1"), "the released Pod is forgotten")
        finally:
            stopping.set()

    with api_server(answer) as server:
        asyncio.run(run(server.client))
