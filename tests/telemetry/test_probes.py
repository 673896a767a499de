"""What Kubernetes' probes and Prometheus get."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest

from kube_cache.errors import InvalidRequest
from kube_cache.telemetry import metrics
from kube_cache.telemetry.declarations import Process
from kube_cache.telemetry.exposition import Exposition
from kube_cache.telemetry.probes import Health, ProbeServer


def get(server: ProbeServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_process_is_alive_from_its_start_and_ready_when_it_says_so() -> None:
    health = Health()
    with ProbeServer("127.0.0.1:0", health, Exposition(Process.AGENT)) as server:
        assert get(server, "/healthz")[0] == 200
        health.waits_for = "Temporal"
        assert get(server, "/readyz") == (503, "not ready: waits for Temporal\n")
        health.waits_for = ""
        assert get(server, "/readyz")[0] == 200
        assert get(server, "/else")[0] == 404


def test_an_event_loop_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    late = time.monotonic() + 61
    monkeypatch.setattr("kube_cache.telemetry.probes.time.monotonic", lambda: late)
    assert not health.alive
    health.beat()
    assert health.alive


def test_a_process_exports_its_own_metrics() -> None:
    with ProbeServer("127.0.0.1:0", Health(), Exposition(Process.OPERATOR)) as server:
        status, text = get(server, "/metrics")
    assert status == 200
    assert "kube_cache_releases_total" in text
    assert "kube_cache_landed_bytes_total" not in text


def test_what_only_a_leader_knows_is_not_exported_by_others() -> None:
    metrics.set_as_leader(metrics.UNATTENDED_PODS, 1)
    metrics.clear_as_follower()
    assert metrics.REGISTRY.get_sample_value("kube_cache_unattended_pods", {"operator": "leader"}) is None


def test_a_port_that_is_taken_is_an_error_that_names_the_setting() -> None:
    with ProbeServer("127.0.0.1:0", Health(), Exposition(Process.AGENT)) as server:
        with pytest.raises(InvalidRequest, match="KUBE_CACHE_TELEMETRY__HTTP_ADDRESS"):
            ProbeServer(f"127.0.0.1:{server.port}", Health(), Exposition(Process.AGENT)).__enter__()


def test_an_empty_address_serves_nothing() -> None:
    with ProbeServer("", Health(), Exposition(Process.AGENT)) as server:
        assert server.port == 0
