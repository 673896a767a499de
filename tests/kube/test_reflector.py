"""The reflector: nothing missed over restarts and compaction, and no hot loop when the server says no."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kube_cache.kube.client import KubeClient
from kube_cache.kube.reflector import Reflector
from tests.kube.fakes import EMPTY_LIST, URI, api_server, watch_line
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until


@contextmanager
def watching(client: KubeClient, **how: Any) -> Iterator[tuple[Reflector, list[tuple[str, str]]]]:
    seen: list[tuple[str, str]] = []
    stop = threading.Event()
    reflector = Reflector(
        client, "pods", project=lambda pod: pod["metadata"]["name"], handler=lambda *event: seen.append(event), **how
    )
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield reflector, seen
    finally:
        stop.set()


def test_what_is_there_what_comes_and_what_goes(kube_client: KubeClient, kube_pods: Pods) -> None:
    kube_pods.create_gated("before", URI)
    with watching(kube_client, namespace=kube_pods.namespace) as (reflector, seen):
        assert reflector.synced.wait(10)
        assert seen == [("ADDED", "before")]
        kube_pods.create_gated("after", URI)
        kube_pods.api.delete(f"/api/v1/namespaces/{kube_pods.namespace}/pods/before")
        until(lambda: ("ADDED", "after") in seen and ("DELETED", "before") in seen, "both changes are seen")


def test_a_restart_of_the_api_server_loses_nothing(kube_client: KubeClient, kube: Stack, kube_pods: Pods) -> None:
    with watching(kube_client, namespace=kube_pods.namespace) as (reflector, seen):
        assert reflector.synced.wait(10)
        kube_pods.create_gated("first", URI)
        until(lambda: ("ADDED", "first") in seen, "the first is seen")
        kube.cluster.control_plane.stop_apiserver()
        kube.cluster.control_plane.start_apiserver()
        until(lambda: kube_pods.find("first") is not None, "the API server answers again", timeout_s=30)
        kube_pods.create_gated("second", URI)
        until(lambda: ("ADDED", "second") in seen, "the second is seen", timeout_s=60)
        assert seen.count(("ADDED", "first")) == 1


def pod_line(event: str, name: str, version: str) -> bytes:
    return watch_line(event, {"metadata": {"name": name, "uid": name, "resourceVersion": version}})


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_says_no_is_asked_patiently(status: int) -> None:
    """The client library's informer asked 3,337 times in a second."""

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        return (200, EMPTY_LIST, {}) if "watch=true" not in path else (status, b'{"message":"no"}', {})

    with api_server(answers) as server, watching(server.client) as (reflector, _):
        until(lambda: reflector.errors >= 2, "it has met the error twice")
        time.sleep(1)  # the span in which a hot loop would show
        assert len(server.requests) <= 8


@pytest.mark.slow
def test_retry_after_is_honoured() -> None:
    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        return (200, EMPTY_LIST, {}) if "watch=true" not in path else (429, b"{}", {"Retry-After": "3"})

    with api_server(answers) as server, watching(server.client) as (reflector, _):
        until(lambda: reflector.errors >= 1, "it was told to wait")
        time.sleep(1.5)
        assert reflector.errors == 1


@pytest.mark.parametrize("how", ["status", "event"])
def test_an_expired_version_lists_again_and_tells_what_vanished(how: str) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    lists = [
        {
            "items": [{"metadata": {"name": "a", "uid": "a"}}, {"metadata": {"name": "b", "uid": "b"}}],
            "metadata": {"resourceVersion": "1"},
        },
        {"items": [{"metadata": {"name": "b", "uid": "b"}}], "metadata": {"resourceVersion": "9"}},
    ]

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        if "watch=true" not in path:
            return 200, json.dumps(lists.pop(0) if len(lists) > 1 else lists[0]).encode(), {}
        if "resourceVersion=1&" in path:
            return (410, b"{}", {}) if how == "status" else (200, json.dumps(gone).encode() + b"\n", {})
        return 200, b"", {}

    with api_server(answers) as server, watching(server.client) as (_, seen):
        until(lambda: ("DELETED", "a") in seen, "what vanished in the gap is told")
        assert seen[:2] == [("ADDED", "a"), ("ADDED", "b")]


def test_bookmarks_move_the_place_and_bad_lines_are_skipped() -> None:
    served = threading.Event()

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        if "watch=true" not in path:
            return 200, EMPTY_LIST, {}
        if not served.is_set():
            served.set()
            return 200, b"not json\n" + pod_line("ADDED", "x", "6") + pod_line("BOOKMARK", "", "77"), {}
        return 200, b"", {}

    with api_server(answers) as server, watching(server.client) as (_, seen):
        until(
            lambda: any("resourceVersion=77" in path for path in server.requests),
            "the next watch begins at the bookmark",
        )
        assert seen == [("ADDED", "x")]


def test_a_handler_that_fails_does_not_end_the_stream(kube_client: KubeClient, kube_pods: Pods) -> None:
    seen: list[str] = []

    def handler(_: str, name: str) -> None:
        seen.append(name)
        if name == "bad":
            raise ValueError(name)

    stop = threading.Event()
    reflector = Reflector(
        kube_client, "pods", project=lambda pod: pod["metadata"]["name"], handler=handler, namespace=kube_pods.namespace
    )
    threading.Thread(target=reflector.run, args=(stop,), daemon=True).start()
    try:
        assert reflector.synced.wait(10)
        kube_pods.create_gated("bad", URI)
        kube_pods.create_gated("good", URI)
        until(lambda: "good" in seen, "the stream goes on")
    finally:
        stop.set()
