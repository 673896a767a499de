"""What the Kubernetes side counts: each request by verb and code, each seat once."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.errors import SeatForbidden
from kube_cache.kube import seats
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path
from tests.kube.fakes import EMPTY_LIST, api_server
from tests.telemetry.scrape import Changes

REQUESTS, SECONDS = "kube_cache_kube_requests_total", "kube_cache_kube_request_seconds_count"
SEAT = {
    "metadata": {"name": "seat-1", "namespace": "seats"},
    "spec": {"priority": -10, "priorityClassName": "kube-cache-seat", "containers": []},
}


@pytest.mark.parametrize(("status", "code"), [(429, "429"), (409, "409"), (418, "other"), (503, "5xx")])
def test_a_request_that_is_refused_is_counted_by_its_code(status: int, code: str) -> None:
    changes = Changes()
    with api_server(lambda *_: (status, b"{}", {})) as server, pytest.raises(ApiError):
        server.client.get_pod("ml", "train")
    assert changes.of(REQUESTS, verb="GET", code=code) == 1
    assert changes.of(SECONDS, verb="GET") == 1


def test_a_list_and_a_watch_are_counted_as_what_they_are() -> None:
    changes = Changes()
    with api_server(lambda *_: (200, EMPTY_LIST, {})) as server:
        server.client.list_items("pods")
        list(server.client.watch_lines("/api/v1/pods", {"watch": "true"}))
    assert changes.of(REQUESTS, verb="GET", code="2xx") == 1
    assert changes.of(REQUESTS, verb="WATCH", code="2xx") == 1


def test_a_server_that_does_not_answer_has_no_code() -> None:
    changes = Changes()
    with api_server(lambda *_: (200, b"{}", {})) as server:
        client = server.client
    with pytest.raises(ApiError):
        client.get_pod("ml", "train")
    assert changes.of(REQUESTS, verb="GET", code="none") == 1


class Api:
    """Keeps one seat. refusal: status of each creation."""

    def __init__(self, refusal: int = 0) -> None:
        self.refusal = refusal
        self.seat: Json | None = None

    def create(self, path: str, body: Json, **_: Any) -> Json:
        if self.refusal:
            raise ApiError(self.refusal, "Forbidden", "exceeded quota")
        if self.seat is not None:
            raise ApiError(409, "AlreadyExists", "seat-1 exists")
        self.seat = body
        return body

    def get_pod(self, namespace: str, name: str) -> Json:
        assert self.seat is not None
        assert pod_path(namespace, name).endswith("seats/pods/seat-1")
        return self.seat


def create(api: Any) -> None:
    client: KubeClient = api
    seats.create(client, SEAT)


def test_a_seat_that_is_asked_for_again_is_counted_once() -> None:
    changes, api = Changes(), Api()
    for _ in range(3):
        create(api)
    assert changes.of("kube_cache_seats_created_total") == 1


def test_a_seat_that_is_refused_is_counted_each_time() -> None:
    changes, api = Changes(), Api(refusal=403)
    for _ in range(2):
        with pytest.raises(SeatForbidden):
            create(api)
    assert changes.of("kube_cache_seats_refused_total", reason="forbidden") == 2
    assert changes.of("kube_cache_seats_created_total") == 0
