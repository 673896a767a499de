"""The page over loopback: complete at once, current by events, bounded, and nothing but read."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache.errors import InvalidRequest
from tests.watcher.page.made import GIB, facts, warm
from watcher.page import hub as hubs
from watcher.page.hub import Hub
from watcher.page.model import Facts
from watcher.page.server import MAX_VIEWERS, PageServer

QUICK_S = 0.02
WAIT_S = 90


class Site:
    """A page whose facts a test changes."""

    def __init__(self, *, max_viewers: int = 5, **server: Any) -> None:
        self.facts = facts(warm_count=1)
        self.taken = 0
        self.looked = threading.Event()
        self.hub = Hub(self._take, max_viewers=max_viewers, every_s=QUICK_S)
        self.server = PageServer("127.0.0.1:0", self.hub, **server)

    def _take(self) -> Facts:
        self.taken += 1
        self.looked.set()
        return self.facts

    def request(self, method: str, path: str, **headers: str) -> tuple[int, Any, bytes]:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)
        ) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    @contextlib.contextmanager
    def viewer(self, query: str = "") -> Iterator[Iterator[dict[str, Any]]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)
        connection.request("GET", f"/events{query}")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")

        def events() -> Iterator[dict[str, Any]]:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

        try:
            yield events()
        finally:
            answer.close()
            connection.close()

    def wait_viewers(self, count: int) -> None:
        with self.hub._changed:
            assert self.hub._changed.wait_for(lambda: self.hub.viewers == count, WAIT_S)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with made.server:
        yield made


def test_the_first_paint_is_whole_and_is_not_to_be_kept(site: Site) -> None:
    status, headers, body = site.request("GET", "/")
    assert status == 200
    assert b"llama-70b-worker-00000" in body
    assert headers["Cache-Control"] == "no-store"
    assert "gzip" not in headers.get("Content-Encoding", "")
    assert site.request("GET", "/", **{"Accept-Encoding": "gzip"})[1]["Content-Encoding"] == "gzip"


def test_the_browser_may_load_nothing_from_elsewhere_and_run_nothing_of_a_pod(site: Site) -> None:
    for path in ("/", "/page.css", "/page.js", "/events", "/else"):
        if path == "/events":
            with site.viewer():
                pass
            continue
        headers = site.request("GET", path)[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_but_get_is_answered(site: Site) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
        status, headers, _ = site.request(method, "/")
        assert (status, headers["Allow"]) == (405, "GET"), method


def test_what_is_not_the_page_is_not_there(site: Site) -> None:
    for path in ("/else", "/../server.py", "/templates/page.html"):
        assert site.request("GET", path)[0] == 404


def test_a_viewer_hears_what_changes_and_only_that(site: Site) -> None:
    with site.viewer() as events:
        assert set(next(events)) >= {"warms", "nodes", "releases", "today"}
        site.facts = facts(warms=[warm(0, done_bytes=100 * GIB)])
        said = next(events)
        assert list(said) == ["warms"]
        assert "71 %" in str(said["warms"]["rows"])
        site.facts = facts(warms=[])
        assert next(events)["warms"]["order"] == []


def test_viewers_share_one_look_and_nobody_looks_for_nobody(site: Site) -> None:
    with site.viewer() as one, site.viewer() as two, site.viewer("?find=worker") as three:
        for events in (one, two, three):
            next(events)
        site.facts = facts(warms=[])
        for events in (one, two, three):
            while "warms" not in next(events):
                pass
    with site.hub._changed:
        assert site.hub._changed.wait_for(lambda: site.hub._thread is None, WAIT_S)
    assert site.hub.looks == site.taken


def test_more_viewers_than_are_admitted_are_told_to_come_later_and_get_the_page(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            next(stack.enter_context(site.viewer()))
        status, headers, _ = site.request("GET", "/events")
        assert (status, headers["Retry-After"]) == (503, "30")
        page = site.request("GET", "/")[2]
        assert b"Too many viewers" in page
        assert b"llama-70b-worker-00000" in page
    site.wait_viewers(0)
    with site.viewer() as events:
        assert next(events)


def test_a_viewer_that_does_not_read_is_dropped_and_holds_nobody_up() -> None:
    made = Site(patience_s=0.2)
    with made.server:
        deaf = socket.create_connection(("127.0.0.1", made.server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        made.wait_viewers(1)
        with made.viewer() as events:
            number = 0
            while made.hub.viewers == 2:  # until the kernel takes no more for the deaf one
                number += 1
                made.facts = facts(warms=[warm(each, pod=f"{'p' * 200}-{number}") for each in range(50)])
                assert next(events)
            made.facts = facts(warms=[])
            assert next(events)
        deaf.close()


def test_a_viewer_that_goes_is_forgotten_with_the_next_look(site: Site) -> None:
    with site.viewer() as events:
        next(events)
        site.wait_viewers(1)
    site.wait_viewers(0)


def test_a_look_that_fails_is_followed_by_another(site: Site) -> None:
    with site.viewer() as events:
        next(events)
        good, site.facts = site.facts, None  # type: ignore[assignment]
        site.looked.clear()
        assert site.looked.wait(WAIT_S)
        site.facts = facts(warms=[])
        assert next(events)["warms"]["order"] == []
        assert good


def test_viewers_end_with_the_server() -> None:
    made = Site()
    with made.server, made.viewer() as events:
        next(events)
        made.hub.stop()
        assert list(events) == []


def test_a_look_that_takes_long_is_made_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Site()
    spent = iter(range(10_000))
    monkeypatch.setattr(hubs.time, "thread_time", lambda: float(next(spent)))  # each look takes a second
    with made.server, made.viewer() as events:
        next(events)
        with made.hub._changed:
            assert made.hub._changed.wait_for(lambda: made.hub._period_s > 1, WAIT_S)
        assert made.hub._period_s == 19 / 8, "and ever more seldom, up to a twentieth of the time"


@pytest.mark.parametrize("address", ["127.0.0.1:http", "127.0.0.1:99999", "nowhere.invalid:0"])
def test_an_address_that_cannot_be_served_is_an_error_that_names_the_setting(address: str) -> None:
    with pytest.raises(InvalidRequest, match="KUBE_CACHE_OPERATOR__PAGE_ADDRESS"):
        PageServer(address, Hub(facts, max_viewers=1)).__enter__()


def test_without_a_host_only_this_machine_is_served_and_without_an_address_nobody() -> None:
    with PageServer(":0", Hub(facts, max_viewers=1)) as server:
        assert server._server is not None
        assert server._server.server_address[0] == "127.0.0.1"
    with PageServer("", Hub(facts, max_viewers=1)) as server:
        assert server.port == 0
    assert MAX_VIEWERS == 100
