"""Defaults, bounds, names in the environment, and what a log line of the settings must not show."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kube_cache.engine.settings import EngineSettings
from kube_cache.origin.settings import OriginSettings
from kube_cache.settings import AgentSettings, OperatorSettings, Settings, TelemetrySettings
from kube_cache.store.settings import StoreSettings

SECRETS = ("SSE_C_KEY", "GS_ACCESS_KEY", "GS_SECRET_KEY")


def test_the_engines_defaults() -> None:
    assert Settings().engine == EngineSettings(
        connections=8,
        max_connections=256,
        stall_timeout_s=5,
        give_up_s=30,
        max_bytes_per_s=0,
        verify_hashes=False,
    )


def test_the_origins_defaults() -> None:
    assert Settings().origin == OriginSettings(
        addressing="auto",
        anonymous=False,
        requester_pays=False,
        allowed_buckets="",
        sse_c_key="",
        gs_endpoint="https://storage.googleapis.com",
        gs_access_key="",
        gs_secret_key="",
    )


def test_the_stores_defaults() -> None:
    assert Settings().store == StoreSettings(
        root=Path("/var/lib/kube-cache"),
        allow_root_disk=False,
        min_free=0.20,
        min_free_inodes=0.10,
        capacity_bytes=0,
        capacity_share=1.0,
        keep_partial_s=86_400,
        quarantine_s=604_800,
        scrub_bytes_per_s=52_428_800,
        scrub_every_s=604_800,
    )


def test_the_operators_defaults() -> None:
    assert Settings().operator == OperatorSettings(
        namespace="kube-cache-seats",
        progress_interval_s=15,
        gpu_dollars_per_hour=4,
        linger_s=60,
        max_gate_time_s=0,
        bind_grace_s=60,
        node_exclusion_s=600,
        new_node_s=300,
        group_hold_s=600,
        node_grace_s=40,
        refetch_bytes_per_s=1e9,
        reconcile_interval_s=300,
        sweep_interval_s=30,
        lease_duration_s=10,
        lease_renew_s=2,
        identity="",
        workflow_slots=250,
        seat_image="registry.k8s.io/pause:3.10.1",
        node_selector="",
        seat_deadline_s=21_600,
        page_address="",
        peer_key_file="",
        peer_certificate_file="",
        peer_authority="",
        issuer_address="",
        cache_root="/var/lib/kube-cache",
    )


def test_pods_mount_the_cache_where_the_agents_keep_it() -> None:
    assert Settings().operator.cache_root == str(Settings().store.root)


def test_the_agents_defaults() -> None:
    assert Settings().agent == AgentSettings(node="", slots=64, download_slots=64, concurrent_downloads=4, drain_s=20)


def test_the_defaults_of_logs_and_metrics() -> None:
    assert Settings().telemetry == TelemetrySettings(
        log_level="INFO", log_format="auto", http_address="0.0.0.0:9464", temporal_metrics_address=""
    )


def test_one_variable_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_ENGINE__CONNECTIONS", "12")
    monkeypatch.setenv("KUBE_CACHE_ORIGIN__REQUESTER_PAYS", "true")
    assert Settings().engine == EngineSettings(connections=12)
    assert Settings().origin == OriginSettings(requester_pays=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("ENGINE__CONNECTIONS", "0", "engine.connections", id="too small"),
        pytest.param("ENGINE__MAX_CONNECTIONS", "1025", "engine.max_connections", id="too large"),
        pytest.param("ENGINE__STALL_TIMEOUT_S", "soon", "engine.stall_timeout_s", id="no number"),
        pytest.param("ENGINE__CONNECTIONZ", "4", "engine.connectionz", id="misspelt"),
        pytest.param("ORIGIN__ADDRESSING", "dns", "'auto', 'path' or 'virtual'", id="no choice"),
        pytest.param("ORIGIN__REGION", "eu", "origin.region", id="not ours"),
        pytest.param("ENGINE__SOURCE__ADDRESSING", "path", "engine.source", id="old name of the origin"),
        pytest.param("AGENT__CONCURRENT_WARMS", "2", "agent.concurrent_warms", id="old name of concurrent downloads"),
        pytest.param("TELEMETRY__METRICS_ADDRESS", ":9090", "telemetry.metrics_address", id="removed"),
        pytest.param("OPERATOR__ISSUER_ADDRESS", ":9468", "needs peer_key_file", id="an issuer without its authority"),
        pytest.param(
            "OPERATOR__PEER_AUTHORITY", "a", "peer_authority needs peer_key_file", id="an authority without files"
        ),
        pytest.param("FORECAST__STEP_S", "1", "forecast.step_s", id="slots too short"),
        pytest.param("FORECAST__NODE_SELECTOR", "pool", "pool", id="no selector"),
        pytest.param("FORECAST__PLACEHOLDER_RESOURCES", "gpu", "nvidia.com/gpu=8,cpu=32", id="no quantity"),
        pytest.param("FORECAST__PLACEHOLDER_RESOURCES", "cpu=-1", "nvidia.com/gpu=8,cpu=32", id="less than nothing"),
        pytest.param("FORECAST__PLACEHOLDER_TOLERATIONS", "gpu:Never", "NoSchedule", id="no effect"),
        pytest.param("TELEMETRY__LOG_FORMAT", "xml", "'auto', 'json' or 'console'", id="no format"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"KUBE_CACHE_{name}", value)
    with pytest.raises(ValidationError, match=message):
        Settings()


def test_placeholders_ask_for_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_FORECAST__PLACEHOLDER_RESOURCES", "")
    assert Settings().forecast.max_placeholders == 0
    monkeypatch.setenv("KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS", "1")
    with pytest.raises(ValidationError, match="make no node come; write what one Pod"):
        Settings()


def test_a_time_zone_matters_where_there_is_a_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tz database may be missing where nobody forecasts, as on the nodes."""
    monkeypatch.setenv("KUBE_CACHE_FORECAST__TIME_ZONE", "Mars/Olympus")
    assert not Settings().forecast.enabled
    monkeypatch.setenv("KUBE_CACHE_FORECAST__ENABLED", "true")
    with pytest.raises(ValidationError, match="write it like Europe/Berlin"):
        Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"KUBE_CACHE_ORIGIN__{name}", "hushhush")
    assert Settings().origin.sse_c_key == "hushhush"
    assert "hushhush" not in repr(Settings())
