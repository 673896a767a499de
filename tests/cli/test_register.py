"""`kube-cache register`: what it did, or why not, in one line, and an exit code that a Job can fail by."""

from __future__ import annotations

import pytest
from temporalio.client import Client

from cli import register
from kube_cache import names
from kube_cache.contracts.node import ExitCode
from kube_cache.temporal import client as connection
from tools.stack.temporal import Temporal


def test_a_namespace_that_has_everything_is_left_as_it_is(
    temporal_server: Temporal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", names.TEMPORAL_NAMESPACE)
    assert register.run() == ExitCode.DONE
    assert capsys.readouterr().out == "every search attribute is registered\n"


def test_a_server_that_does_not_answer_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nobody(**_: object) -> Client:
        raise RuntimeError("connection refused")

    monkeypatch.setattr(connection.Client, "connect", nobody)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    assert register.run() == ExitCode.UNREACHABLE
    assert "did not take the search attributes: connection refused" in capsys.readouterr().err


def test_a_missing_address_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/nonexistent/temporal.toml")
    assert register.run() == ExitCode.USAGE
    assert "set TEMPORAL_ADDRESS" in capsys.readouterr().err
