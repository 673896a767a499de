"""What users may write, and what they are told when they may not."""

from __future__ import annotations

import pytest

import activities
import watcher
import workflows
from kube_cache.contracts.common import PodView, Policy
from kube_cache.errors import InvalidRequest
from kube_cache.settings import Settings
from kube_cache.units import format_bytes, format_seconds, parse_duration, parse_priority
from workflows.warm_pod import options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("250ms", 0.25), (" 2d ", 172800)],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text, name="x") == seconds


@pytest.mark.parametrize("text", ["", "soon", "30", "30m!", "m30", "-5m"])
def test_a_bad_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"max-gate-time: .* is not a duration; write it like 30m"):
        parse_duration(text, name="max-gate-time")


@pytest.mark.parametrize(("text", "value"), [("", 0), ("50", 50), ("-100", -100)])
def test_priorities(text: str, value: int) -> None:
    assert parse_priority(text, name="x") == value


@pytest.mark.parametrize("text", ["high", "101", "1.5"])
def test_a_bad_priority_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="whole number from -100 to 100"):
        parse_priority(text, name="x")


@pytest.mark.parametrize(
    ("view", "words"),
    [
        pytest.param(PodView(on_timeout="maybe"), "keep or release", id="on-timeout"),
        pytest.param(PodView(verify="hard"), "quick or full", id="verify"),
        pytest.param(PodView(max_gate_time="x"), "max-gate-time", id="max-gate-time"),
        pytest.param(PodView(priority="x"), "priority", id="priority"),
    ],
)
def test_a_bad_option_names_itself_and_its_choices(view: PodView, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        options.check(view)


def test_the_pods_gate_time_goes_before_the_operators() -> None:
    assert options.gate_time_s(PodView(max_gate_time="1m"), Policy(max_gate_time_s=5)) == 60
    assert options.gate_time_s(PodView(), Policy(max_gate_time_s=5)) == 5
    assert options.gate_time_s(PodView(), Policy()) is None


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.71, "0.7s"), (42, "42s"), (75, "1m15s"), (3720, "1h02m")])
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_settings_come_from_the_environment_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_OPERATOR__LINGER_S", "7")
    settings = Settings()
    assert settings.operator.linger_s == 7
    assert settings.operator.namespace == "kube-cache-system"


def test_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_OPERATOR__LINGR_S", "7")
    with pytest.raises(ValueError, match="lingr_s"):
        Settings()


def test_the_generic_package_names_are_ours() -> None:
    for package in (workflows, activities, watcher):
        assert __file__.rsplit("/tests/", 1)[0] in str(package.__file__)
