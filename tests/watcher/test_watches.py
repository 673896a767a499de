"""The gated Pods as the watches know them, read from any thread."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the test's own
def test_a_watch_whose_thread_has_died_is_found() -> None:
    class Deadly:
        def watch_lines(self, *_: Any, **__: Any) -> Any:
            raise SystemExit

    async def run() -> None:
        watches = Watches(Deadly(), PodWatcher(FakeKube(), FakeStarter()), seat_namespace="seats")  # type: ignore[arg-type]
        assert watches.find_dead() == "", "nothing was started yet"
        watches.start(threading.Event())
        await asyncio.to_thread(until, watches.find_dead, "the death is noticed")
        assert "has ended" in watches.find_dead()
        for thread in watches._threads.values():  # one that dies later would be the next test's failure
            thread.join()

    asyncio.run(run())


def test_a_watch_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held, stopping = threading.Event(), threading.Event()

    class Stuck:
        def watch_lines(self, *_: Any, **__: Any) -> Any:
            held.wait(20)
            return iter(())

    async def run() -> None:
        watches = Watches(Stuck(), PodWatcher(FakeKube(), FakeStarter()), seat_namespace="seats")  # type: ignore[arg-type]
        watches.start(stopping)
        assert watches.find_dead() == ""
        for reflector in watches._reflectors:
            monkeypatch.setattr(reflector, "still_s", lambda: 181.0)
        assert watches.find_dead() == "the watch of unreleased-pods has done nothing for 181 s"

    asyncio.run(run())
    stopping.set()
    held.set()
