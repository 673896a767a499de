"""The reflector: nothing missed over restarts and compaction, and no hot loop when the server says no."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kube_cache.kube.client import ApiError, KubeClient, Page
from kube_cache.kube.reflector import _MIN_BACKOFF_S, Reflector
from kube_cache.telemetry import metrics
from tests.kube.fakes import EMPTY_LIST, SILENT_AFTERWARDS, URI, Answer, api_server, watch_line
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until


@contextmanager
def watching(client: KubeClient, **how: Any) -> Iterator[tuple[Reflector, list[tuple[str, str]]]]:
    seen: list[tuple[str, str]] = []
    stop = threading.Event()
    reflector = Reflector(
        client,
        "pods",
        name="test",
        project=lambda pod: pod["metadata"]["name"],
        handler=lambda *event: seen.append(event),
        **how,
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
        assert reflector.synced.wait(60)
        assert seen == [("ADDED", "before")]
        kube_pods.create_gated("after", URI)
        kube_pods.api.delete(f"/api/v1/namespaces/{kube_pods.namespace}/pods/before")
        until(lambda: ("ADDED", "after") in seen and ("DELETED", "before") in seen, "both changes are seen")


def test_a_restart_of_the_api_server_loses_nothing(kube_client: KubeClient, kube: Stack, kube_pods: Pods) -> None:
    with watching(kube_client, namespace=kube_pods.namespace) as (reflector, seen):
        assert reflector.synced.wait(60)
        kube_pods.create_gated("first", URI)
        until(lambda: ("ADDED", "first") in seen, "the first is seen")
        kube.cluster.control_plane.stop_apiserver()
        kube.cluster.control_plane.start_apiserver()
        until(lambda: kube_pods.find("first") is not None, "the API server answers again")
        kube_pods.create_gated("second", URI)
        until(lambda: ("ADDED", "second") in seen, "the second is seen")
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
        began, before = time.monotonic(), len(server.requests)
        time.sleep(1)  # the span in which a hot loop would show
        asked = len(server.requests) - before
        assert asked <= 1 + (time.monotonic() - began) / _MIN_BACKOFF_S


@pytest.mark.slow
def test_retry_after_is_honoured() -> None:
    """It is longer than what the backoff would choose at first, 1.5 s at the most."""
    asked_at: list[float] = []

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        if "watch=true" not in path:
            return 200, EMPTY_LIST, {}
        asked_at.append(time.monotonic())
        return 429, b"{}", {"Retry-After": "2"}

    with api_server(answers) as server, watching(server.client):
        until(lambda: len(asked_at) == 2, "it asks again")
        assert asked_at[1] - asked_at[0] >= 2


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


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(24, "Too many open files"), id="no file descriptor"),
        pytest.param(KeyError("metadata"), id="not a list"),
        pytest.param(RuntimeError("a bug"), id="a bug"),
    ],
)
def test_no_error_ends_a_watch(error: Exception) -> None:
    class Failing:
        def __init__(self) -> None:
            self.calls = 0

        def pages(self, *_: Any) -> Iterator[Page]:
            self.calls += 1
            if self.calls == 1:
                raise error
            yield Page([{"metadata": {"name": "a", "uid": "a"}}], "1")

        def watch_lines(self, path: str, query: dict[str, str], *, silence_s: float) -> Iterator[bytes]:
            if "sendInitialEvents" in query:
                raise ApiError(422, "Invalid", "sendInitialEvents is forbidden")
            threading.Event().wait(0.05)
            return iter(())

    before = metrics.REGISTRY.get_sample_value("kube_cache_watch_errors_total", {"watch": "test"}) or 0
    with watching(Failing()) as (reflector, seen):  # type: ignore[arg-type]
        assert reflector.synced.wait(60)
        assert seen == [("ADDED", "a")]
        assert reflector.errors == 1
        assert metrics.REGISTRY.get_sample_value("kube_cache_watch_errors_total", {"watch": "test"}) == before + 1


def test_an_event_without_a_version_is_skipped_and_the_watch_goes_on() -> None:
    served = threading.Event()

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        if "watch=true" not in path:
            return 200, EMPTY_LIST, {}
        if not served.is_set():
            served.set()
            return 200, watch_line("ADDED", {"metadata": {"uid": "x"}}) + pod_line("ADDED", "y", "7"), {}
        return 200, b"", {}

    with api_server(answers) as server, watching(server.client) as (_, seen):
        until(lambda: seen, "the next event is seen")
        assert seen == [("ADDED", "y")]


def test_a_large_list_is_handed_on_page_by_page() -> None:
    """All raw objects of a list at once were gigabytes in a large cluster."""
    seen_before_page: list[int] = []

    class Paged:
        def pages(self, *_: Any) -> Iterator[Page]:
            for number in range(3):
                seen_before_page.append(len(handed))
                yield Page([{"metadata": {"name": str(number), "uid": str(number)}}], "1")

        def watch_lines(self, path: str, query: dict[str, str], *, silence_s: float) -> Iterator[bytes]:
            if "sendInitialEvents" in query:
                raise ApiError(422, "Invalid", "sendInitialEvents is forbidden")
            threading.Event().wait(0.05)
            return iter(())

    with watching(Paged()) as (reflector, handed):  # type: ignore[arg-type]
        assert reflector.synced.wait(60)
    assert seen_before_page[:3] == [0, 1, 2]


def test_a_silent_connection_is_dead_after_its_time_and_the_watch_goes_on() -> None:
    """A half-open one is silent for ever; a healthy one has a bookmark about once a minute."""
    held = threading.Event()

    def answers(path: str, _: int) -> tuple[int, bytes, dict[str, str]]:
        held.wait(60)
        return 200, b"", {}

    with api_server(answers) as server:
        with pytest.raises(ApiError, match=r"does not answer|broke"):
            list(server.client.watch_lines("/api/v1/pods", {}, silence_s=0.2))
        held.set()


def test_a_silent_watch_is_opened_anew_where_it_was_and_nothing_is_listed_again() -> None:
    """A server in which nothing is written sends no bookmark, so silence need not be a fault."""

    def answers(path: str, _: int) -> Answer:
        if "watch=true" not in path:
            return 200, EMPTY_LIST, {}
        return 200, pod_line("ADDED", "x", "6"), {SILENT_AFTERWARDS: "5"}

    with api_server(answers) as server, watching(server.client, silence_s=0.2) as (reflector, seen):
        until(lambda: sum("resourceVersion=6" in path for path in server.requests) >= 3, "it goes on from the event")
        assert reflector.errors == 0
        assert sum("watch=true" not in path for path in server.requests) == 1
        assert seen[0] == ("ADDED", "x")


def test_an_idle_watch_of_a_real_api_server_is_not_silent_for_long(kube_client: KubeClient, kube_pods: Pods) -> None:
    """Bookmarks come about once a minute, also where nothing happens in the selection: see WATCH_SILENCE_S."""
    kube_pods.create_gated("elsewhere", URI)
    (page,) = kube_client.pages("pods", "kube-node-lease")
    query = {
        "watch": "true",
        "resourceVersion": page.resource_version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "150",
    }
    heard = threading.Event()

    def write_elsewhere() -> None:
        """A server sends no bookmark to a watch that has already seen its newest version."""
        for number in itertools.count():
            if heard.wait(2):
                return
            kube_pods.annotate("elsewhere", number=str(number))

    writer = threading.Thread(target=write_elsewhere)
    writer.start()
    try:
        line = next(kube_client.watch_lines("/api/v1/namespaces/kube-node-lease/pods", query), b"")
    finally:
        heard.set()
        writer.join()
    assert json.loads(line)["type"] == "BOOKMARK"


def test_a_handler_that_fails_does_not_end_the_stream(kube_client: KubeClient, kube_pods: Pods) -> None:
    seen: list[str] = []

    def handler(_: str, name: str) -> None:
        seen.append(name)
        if name == "bad":
            raise ValueError(name)

    stop = threading.Event()
    reflector = Reflector(
        kube_client,
        "pods",
        name="test",
        project=lambda pod: pod["metadata"]["name"],
        handler=handler,
        namespace=kube_pods.namespace,
    )
    threading.Thread(target=reflector.run, args=(stop,), daemon=True).start()
    try:
        assert reflector.synced.wait(60)
        kube_pods.create_gated("bad", URI)
        kube_pods.create_gated("good", URI)
        until(lambda: "good" in seen, "the stream goes on")
    finally:
        stop.set()
