"""Defaults, bounds, names in the environment, and what a log line of the settings must not show."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kube_cache.settings import Settings
from kube_cache.storage.options import EngineSettings, ObjectStoreSettings

SECRETS = ("SSE_C_KEY", "GS_SECRET_KEY")


def test_the_engines_defaults() -> None:
    assert Settings().engine == EngineSettings(
        connections=8,
        max_connections=256,
        stall_timeout_s=5,
        give_up_s=30,
        max_bytes_per_s=0,
        verify_hashes=False,
        source=ObjectStoreSettings(
            addressing="auto",
            anonymous=False,
            requester_pays=False,
            sse_c_key="",
            gs_endpoint="https://storage.googleapis.com",
            gs_access_key="",
            gs_secret_key="",
        ),
    )


def test_one_variable_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_ENGINE__CONNECTIONS", "12")
    monkeypatch.setenv("KUBE_CACHE_ENGINE__SOURCE__REQUESTER_PAYS", "true")
    assert Settings().engine == EngineSettings(connections=12, source=ObjectStoreSettings(requester_pays=True))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        pytest.param("CONNECTIONS", "0", "engine.connections", id="too small"),
        pytest.param("MAX_CONNECTIONS", "1025", "engine.max_connections", id="too large"),
        pytest.param("STALL_TIMEOUT_S", "soon", "engine.stall_timeout_s", id="no number"),
        pytest.param("CONNECTIONZ", "4", "engine.connectionz", id="misspelt"),
        pytest.param("SOURCE__ADDRESSING", "dns", "'auto', 'path' or 'virtual'", id="no choice"),
        pytest.param("SOURCE__REGION", "eu", "engine.source.region", id="not ours"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"KUBE_CACHE_ENGINE__{name}", value)
    with pytest.raises(ValidationError, match=told):
        Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"KUBE_CACHE_ENGINE__SOURCE__{name}", "hushhush")
    assert Settings().engine.source.sse_c_key == "hushhush"
    assert "hushhush" not in repr(Settings())
