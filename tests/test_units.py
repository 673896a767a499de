"""Sizes, durations and priorities as people write and read them."""

from __future__ import annotations

import pytest

from kube_cache.errors import InvalidRequest
from kube_cache.units import cut, format_bytes, format_neighbours, format_seconds, parse_duration, parse_priority


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


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.71, "0.7s"), (42, "42s"), (75, "1m15s"), (3720, "1h02m")])
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("text", "most", "short"), [("short", 9, "short"), ("ßß", 3, "ß"), ("ß", 1, "")])
def test_a_text_is_cut_by_bytes_between_characters(text: str, most: int, short: str) -> None:
    assert cut(text, most) == short


@pytest.mark.parametrize(
    ("sent", "total", "neighbours", "text"),
    [
        pytest.param(0, 1000, 0, "", id="none"),
        pytest.param(610, 1000, 7, "61 % from 7 neighbours", id="some"),
        pytest.param(1000, 1000, 1, "100 % from 1 neighbour", id="all"),
        pytest.param(999, 1000, 2, "99 % from 2 neighbours", id="not quite all"),
        pytest.param(1, 1000, 2, "<1 % from 2 neighbours", id="hardly any"),
        pytest.param(5, 0, 1, "100 % from 1 neighbour", id="a total that is not known yet"),
    ],
)
def test_the_share_of_neighbours_says_no_more_and_no_less_than_there_is(
    sent: int, total: int, neighbours: int, text: str
) -> None:
    assert format_neighbours(sent, total, neighbours) == text


def test_there_may_be_more_neighbours_than_are_known() -> None:
    assert format_neighbours(1, 2, 3, at_least=True) == "50 % from at least 3 neighbours"
