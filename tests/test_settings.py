"""Defaults, bounds, names in the environment, and what a log line of the settings must not show."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kube_cache.engine.settings import EngineSettings
from kube_cache.origin.settings import OriginSettings
from kube_cache.settings import Settings

SECRETS = ("SSE_C_KEY", "GS_SECRET_KEY")


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
        sse_c_key="",
        gs_endpoint="https://storage.googleapis.com",
        gs_access_key="",
        gs_secret_key="",
    )


def test_one_variable_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_ENGINE__CONNECTIONS", "12")
    monkeypatch.setenv("KUBE_CACHE_ORIGIN__REQUESTER_PAYS", "true")
    assert Settings().engine == EngineSettings(connections=12)
    assert Settings().origin == OriginSettings(requester_pays=True)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        pytest.param("ENGINE__CONNECTIONS", "0", "engine.connections", id="too small"),
        pytest.param("ENGINE__MAX_CONNECTIONS", "1025", "engine.max_connections", id="too large"),
        pytest.param("ENGINE__STALL_TIMEOUT_S", "soon", "engine.stall_timeout_s", id="no number"),
        pytest.param("ENGINE__CONNECTIONZ", "4", "engine.connectionz", id="misspelt"),
        pytest.param("ORIGIN__ADDRESSING", "dns", "'auto', 'path' or 'virtual'", id="no choice"),
        pytest.param("ORIGIN__REGION", "eu", "origin.region", id="not ours"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"KUBE_CACHE_{name}", value)
    with pytest.raises(ValidationError, match=told):
        Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"KUBE_CACHE_ORIGIN__{name}", "hushhush")
    assert Settings().origin.sse_c_key == "hushhush"
    assert "hushhush" not in repr(Settings())


def test_settings_come_from_the_environment_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_OPERATOR__LINGER_S", "7")
    settings = Settings()
    assert settings.operator.linger_s == 7
    assert settings.operator.namespace == "kube-cache-system"


def test_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_OPERATOR__LINGR_S", "7")
    with pytest.raises(ValueError, match="lingr_s"):
        Settings()
