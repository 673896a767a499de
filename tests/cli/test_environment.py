"""What the command line prints of settings that it refuses: the variable, and its value unless it may be a secret."""

from __future__ import annotations

import pytest

from cli.environment import read_settings


@pytest.mark.parametrize(
    "name",
    [
        "ORIGIN__GS_SECRET",
        "ENGINE__SOURCE__GS_SECRET",
        "ENGINE__SECRET",
        "ORIGIN__ANONYMOUS",
        "ORIGIN",
        "ENGINE",
    ],
)
def test_a_value_under_a_misspelt_name_is_not_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"KUBE_CACHE_{name}", "hunter2-very-secret")
    with pytest.raises(SystemExit) as caught:
        read_settings()
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert name.split("__", maxsplit=1)[0].lower() in printed.lower()
    assert "hunter2" not in printed


def test_a_value_that_is_no_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBE_CACHE_ENGINE__CONNECTIONS", "twelve")
    with pytest.raises(SystemExit):
        read_settings()
    assert "KUBE_CACHE_ENGINE__CONNECTIONS: " in (printed := capsys.readouterr().err)
    assert "(given: 'twelve')" in printed
