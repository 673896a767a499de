"""A list that the server streams, object by object: complete when the server says so, and never taken for it before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache.kube import reflector as module
from kube_cache.kube.client import ApiError, KubeClient, Page
from kube_cache.kube.watch_events import Expired, parse
from tests.kube.fakes import EMPTY_LIST, SILENT_AFTERWARDS, URI, Answer, api_server, watch_line
from tests.kube.test_reflector import pod_line, watching
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until


def end_line(version: str) -> bytes:
    annotations = {"k8s.io/initial-events-end": "true"}
    return watch_line("BOOKMARK", {"metadata": {"resourceVersion": version, "annotations": annotations}})


class Counting:
    """The real client; counts the pages, and lets one watch begin at a version that the server has forgotten."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.pages_asked = 0
        self.streams = 0
        self.forget_next = False

    def pages(self, *selection: str) -> Iterator[Page]:
        self.pages_asked += 1
        return self._client.pages(*selection)

    def watch_lines(self, path: str, query: dict[str, str], *, silence_s: float) -> Iterator[bytes]:
        if "sendInitialEvents" in query:
            self.streams += 1
        elif self.forget_next:
            self.forget_next, query = False, {**query, "resourceVersion": "1"}
        return self._client.watch_lines(path, query, silence_s=silence_s)


def test_the_real_server_streams_what_is_there_and_then_what_comes(kube_client: KubeClient, kube_pods: Pods) -> None:
    names = [f"before-{number}" for number in range(3)]
    for name in names:
        kube_pods.create_gated(name, URI)
    client: Any = Counting(kube_client)
    with watching(client, namespace=kube_pods.namespace) as (reflector, seen):
        assert reflector.synced.wait(60)
        assert sorted(seen) == [("ADDED", name) for name in names]
        kube_pods.create_gated("after", URI)
        kube_pods.delete("before-0")
        until(lambda: {("ADDED", "after"), ("DELETED", "before-0")} <= set(seen), "both changes are seen")
        assert reflector.errors == 0
    assert client.pages_asked == 0


def test_a_version_that_the_real_server_has_forgotten_is_answered_with_another_stream(
    kube: Stack, kube_client: KubeClient, kube_pods: Pods
) -> None:
    kube_pods.create_gated("one", URI)
    # A server that has just started remembers no event from before.
    kube.cluster.control_plane.stop_apiserver()
    kube.cluster.control_plane.start_apiserver()
    until(lambda: kube_pods.find("one") is not None, "the API server answers again")
    client: Any = Counting(kube_client)
    client.forget_next = True
    with watching(client, namespace=kube_pods.namespace) as (reflector, seen):
        until(lambda: client.streams == 2, "the selection is streamed again")
        kube_pods.create_gated("two", URI)
        until(lambda: ("ADDED", "two") in seen, "the watch goes on")
        assert seen.count(("ADDED", "one")) == 1
        assert reflector.errors == 0
    assert client.pages_asked == 0


def test_an_empty_selection_of_the_real_server_is_complete_at_once(kube_client: KubeClient) -> None:
    client: Any = Counting(kube_client)
    with watching(client, namespace="kube-node-lease") as (reflector, seen):
        assert reflector.synced.wait(60)
    assert (seen, client.pages_asked) == ([], 0)


def test_what_vanished_between_two_streams_is_told() -> None:
    streams = [
        pod_line("ADDED", "a", "1") + pod_line("ADDED", "b", "2") + end_line("3"),
        # `c` came and went while the list was streamed.
        pod_line("ADDED", "b", "2") + pod_line("ADDED", "c", "8") + pod_line("DELETED", "c", "9") + end_line("9"),
    ]

    def answers(path: str, _: int) -> Answer:
        if "sendInitialEvents" in path:
            return 200, streams.pop(0) if len(streams) > 1 else streams[0], {SILENT_AFTERWARDS: "5"}
        return (410, b"{}", {}) if "resourceVersion=3" in path else (200, b"", {})

    with api_server(answers, streams_lists=True) as server, watching(server.client) as (reflector, seen):
        until(lambda: ("DELETED", "a") in seen, "what vanished in the gap is told")
        assert seen == [
            ("ADDED", "a"),
            ("ADDED", "b"),
            ("MODIFIED", "b"),
            ("ADDED", "c"),
            ("DELETED", "c"),
            ("DELETED", "a"),
        ]
        assert reflector.all() == ["b"]
        until(lambda: any("resourceVersion=9" in path for path in server.requests), "the watch goes on at the end")
        assert all("watch=true" in path for path in server.requests)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param((200, b"", {}), id="ends before the end"),
        pytest.param((200, pod_line("ADDED", "a", "1"), {SILENT_AFTERWARDS: "30"}), id="says nothing more"),
        pytest.param((400, b"{}", {}), id="a proxy that does not know it"),
        pytest.param((403, b"{}", {}), id="a right to list but not to watch"),
        pytest.param((200, watch_line("ERROR", {"code": 410}), {}), id="expired"),
    ],
)
def test_a_server_that_does_not_stream_to_the_end_is_asked_for_pages(
    stream: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STREAM_SILENCE_S", 0.2)
    page = {"items": [{"metadata": {"name": "b", "uid": "b"}}], "metadata": {"resourceVersion": "5"}}

    def answers(path: str, _: int) -> Answer:
        if "sendInitialEvents" in path:
            return stream
        return (200, b"", {}) if "watch=true" in path else (200, json.dumps(page).encode(), {})

    with api_server(answers, streams_lists=True) as server, watching(server.client) as (reflector, seen):
        assert reflector.synced.wait(60)
        assert ("ADDED", "b") in seen
        assert reflector.all() == ["b"]  # what only the broken stream told of is gone
        assert reflector.errors == 0


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_server_that_does_not_serve_anybody_is_not_asked_for_pages(status: int) -> None:
    def answers(path: str, _: int) -> Answer:
        return (status, b"{}", {}) if "sendInitialEvents" in path else (200, EMPTY_LIST, {})

    with api_server(answers, streams_lists=True) as server, watching(server.client) as (reflector, _):
        until(lambda: reflector.errors >= 1, "it met the error")
        assert all("sendInitialEvents" in path for path in server.requests)


def test_a_server_that_always_forgets_is_not_asked_in_a_hot_loop() -> None:
    def answers(path: str, _: int) -> Answer:
        if "sendInitialEvents" in path:
            return 200, end_line("3"), {SILENT_AFTERWARDS: "5"}
        return 200, watch_line("ERROR", {"code": 410}), {}

    with api_server(answers, streams_lists=True) as server, watching(server.client):
        until(lambda: len(server.requests) >= 4, "it has expired twice")
        # The third stream comes after a pause of half a second at least, in which a hot loop would make hundreds.
        assert len(server.requests) <= 8


def test_an_error_within_a_watch_says_how_long_to_wait() -> None:
    line = watch_line("ERROR", {"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}})
    with pytest.raises(ApiError) as raised:
        list(parse([line], watch="test"))
    assert (raised.value.status, raised.value.retry_after_s) == (429, 7)
    with pytest.raises(Expired):
        list(parse([watch_line("ERROR", {"code": 410})], watch="test"))
