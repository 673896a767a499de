"""The client: whatever goes wrong on the way to the API server is an ApiError, in less time than an activity has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from kube_cache.kube import connections
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.kube.connections import Pools
from kube_cache.kube.credentials import Credentials
from tests.kube.fakes import Answer, api_server
from workflows import cluster_calls


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(kubernetes_config.ConfigException("exec plugin failed"), id="exec plugin"),
        pytest.param(OSError(24, "Too many open files"), id="no file descriptor"),
        pytest.param(ValueError("not JSON"), id="what the plugin printed"),
    ],
)
def test_credentials_that_cannot_be_read_are_an_error_of_the_api(error: Exception) -> None:
    def hook(_: object) -> None:
        raise error

    configuration = kubernetes_client.Configuration()
    configuration.host = "http://127.0.0.1:1"
    configuration.refresh_api_key_hook = hook
    with pytest.raises(ApiError, match="cannot read the credentials"):
        KubeClient(configuration).get_pod("ml", "train")


def test_an_answer_that_is_not_json_is_an_error_of_the_api() -> None:
    with api_server(lambda *_: (200, b"<html>a proxy</html>", {})) as server:
        with pytest.raises(ApiError, match="not JSON"):
            server.client.get_pod("ml", "train")


def test_an_answer_that_is_no_list_is_an_error_of_the_api() -> None:
    with api_server(lambda *_: (200, b'{"kind": "Status"}', {})) as server:
        with pytest.raises(ApiError, match="no list"):
            server.client.list_items("pods")


def test_a_request_that_hangs_ends_before_the_activity_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The activity's next attempt would meet it: a seat could be created after its deletion."""
    assert cluster_calls.SHORT_TIMEOUT.total_seconds() > connections._TOTAL_S
    monkeypatch.setattr(connections, "_TOTAL_S", 0.5)
    held = threading.Event()

    def answer(*_: object) -> tuple[int, bytes, dict[str, str]]:
        held.wait(120)
        return 200, b"{}", {}

    with api_server(answer) as server:
        with pytest.raises(ApiError, match="does not answer"):
            server.client.get_pod("ml", "train")
        held.set()


def test_watches_and_requests_do_not_share_connections() -> None:
    pools = Pools(Credentials(kubernetes_client.Configuration())).current()
    assert pools.requests is not pools.watches
    options = pools.watches.connection_pool_kw["socket_options"]
    assert set(urllib3.connection.HTTPConnection.default_socket_options) < set(options)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        pytest.param("7", 7, id="seconds"),
        pytest.param("86400", 60, id="far too long"),
        pytest.param("Fri, 27 Nov 2026 00:00:00 GMT", 0, id="a date, which the API server never sends"),
    ],
)
def test_how_long_a_server_asks_to_wait_is_told_to_the_caller(header: str, seconds: float) -> None:
    with api_server(lambda *_: (429, b"{}", {"Retry-After": header})) as server:
        with pytest.raises(ApiError) as raised:
            server.client.get_pod("ml", "train")
    assert raised.value.retry_after_s == seconds


class Rotating:
    """A token in a file, as the kubelet replaces it; the server accepts one token."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.accepted = "first"
        self.loads = 0
        file.write_text("first")

    def load(self) -> kubernetes_client.Configuration:
        self.loads += 1
        configuration = kubernetes_client.Configuration()
        configuration.api_key["authorization"] = f"Bearer {self.file.read_text()}"
        return configuration

    def answer(self, header: str) -> Answer:
        return (200, b"{}", {}) if header == f"Bearer {self.accepted}" else (401, b"{}", {})


@pytest.fixture
def rotating(tmp_path: Path) -> Iterator[tuple[Rotating, KubeClient]]:
    token = Rotating(tmp_path / "token")
    with api_server(lambda *_: token.answer(server.authorizations[-1])) as server:

        def load() -> kubernetes_client.Configuration:
            configuration = token.load()
            configuration.host = server.client._host
            return configuration

        yield token, KubeClient(load(), load)


def test_a_token_that_the_server_refuses_is_read_again(rotating: tuple[Rotating, KubeClient]) -> None:
    token, client = rotating
    client.get_pod("ml", "train")
    token.accepted = "second"
    token.file.write_text("second")
    client.get_pod("ml", "train")
    assert list(client.watch_lines("/api/v1/pods", {})) == []
    assert token.loads == 2


def test_a_watch_reads_a_refused_token_again(rotating: tuple[Rotating, KubeClient]) -> None:
    token, client = rotating
    token.accepted = "second"
    token.file.write_text("second")
    assert list(client.watch_lines("/api/v1/pods", {})) == []


def test_many_requests_that_are_refused_together_read_the_token_once(rotating: tuple[Rotating, KubeClient]) -> None:
    token, client = rotating
    token.accepted = "second"
    token.file.write_text("second")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.get_pod("ml", "train"), range(8)))
    assert token.loads == 2


def test_credentials_that_are_refused_for_good_are_not_read_for_each_request(
    rotating: tuple[Rotating, KubeClient],
) -> None:
    token, client = rotating
    token.accepted = "of another account"
    for _ in range(5):
        with pytest.raises(ApiError) as raised:
            client.get_pod("ml", "train")
        assert raised.value.status == 401
    assert token.loads == 2


def test_a_token_file_that_is_gone_leaves_the_refusal_as_it_is(rotating: tuple[Rotating, KubeClient]) -> None:
    token, client = rotating
    token.accepted = "second"
    token.file.unlink()
    with pytest.raises(ApiError) as raised:
        client.get_pod("ml", "train")
    assert raised.value.status == 401


def test_a_renewed_client_certificate_gets_connections_of_its_own() -> None:
    configurations = [kubernetes_client.Configuration() for _ in range(2)]
    configurations[1].cert_file = "renewed.pem"
    credentials = Credentials(configurations[0], lambda: configurations[1])
    pools = Pools(credentials)
    assert pools.current() is pools.current()
    assert credentials.renew(0)
    assert pools.current().watches.connection_pool_kw["cert_file"] == "renewed.pem"
