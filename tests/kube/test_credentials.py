"""The token that a Pod, or a person, has is the one that the API server is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from kube_cache.errors import InvalidRequest
from kube_cache.kube import credentials
from kube_cache.telemetry import redaction


@pytest.fixture
def in_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the kubelet lays out the service account of a Pod; the file of its token."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("token-of-the-pod")
    authority.write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return token


def test_a_pod_shows_the_token_of_its_service_account(in_pod: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configuration = credentials.load()
    assert capfd.readouterr() == ("", ""), "logs are JSON, and an answer is for a program"
    assert configuration.host == "https://10.0.0.1:443"
    shown = credentials.Credentials(configuration).authorization()
    assert shown is not None
    assert shown.lower() == "bearer token-of-the-pod"


def test_the_token_of_a_kubeconfig_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": "https://10.0.0.1"}}],
        "users": [{"name": "a", "user": {"token": "token-of-a-person"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{path}")
    assert credentials.Credentials(credentials.load()).authorization() == "Bearer token-of-a-person"


def test_without_either_the_message_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidRequest, match="set KUBECONFIG, or run in a Pod"):
        credentials.load()


def test_a_token_that_was_shown_is_hidden_in_logs(in_pod: Path) -> None:
    credentials.Credentials(credentials.load()).authorization()
    assert "token-of-the-pod" not in redaction.redact("refused: token-of-the-pod")
