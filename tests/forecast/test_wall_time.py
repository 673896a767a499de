"""The same time of day some days ago, where the clocks change: 9 o'clock stays 9 o'clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.errors import InvalidRequest
from kube_cache.forecast.wall_time import same_time_before, zone
from tests.forecast.made import moment


@pytest.mark.parametrize(
    ("where", "at", "days", "found"),
    [
        pytest.param("UTC", "2026-03-30T09:00+00:00", 7, ["2026-03-23T09:00+00:00"], id="no change"),
        pytest.param("Europe/Berlin", "2026-03-30T09:00+02:00", 7, ["2026-03-23T09:00+01:00"], id="spring"),
        pytest.param("Europe/Berlin", "2026-10-26T09:00+01:00", 7, ["2026-10-19T09:00+02:00"], id="autumn"),
        pytest.param("America/New_York", "2026-03-09T09:00-04:00", 1, ["2026-03-08T09:00-04:00"], id="a day after"),
        pytest.param("Europe/Berlin", "2026-04-05T02:30+02:00", 7, [], id="a skipped hour"),
        pytest.param(
            "Europe/Berlin",
            "2026-11-01T02:30+01:00",
            7,
            ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"],
            id="a repeated hour",
        ),
        pytest.param(
            "Europe/Berlin", "2026-10-25T02:30+02:00", 7, ["2026-10-18T02:30+02:00"], id="from a repeated hour"
        ),
        pytest.param("Europe/Berlin", "2026-10-25T02:30+01:00", 7, ["2026-10-18T02:30+02:00"], id="from its second"),
        pytest.param("Australia/Lord_Howe", "2026-10-05T09:00+11:00", 7, ["2026-09-28T09:00+10:30"], id="half an hour"),
    ],
)
def test_the_time_on_the_wall_is_the_same(where: str, at: str, days: int, found: list[str]) -> None:
    assert same_time_before(moment(at), days, zone(where)) == tuple(moment(text) for text in found)


@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.integers(moment("2020-01-01T00:00+00:00"), moment("2030-01-01T00:00+00:00")),
    st.integers(1, 60),
)
def test_each_time_that_is_found_reads_the_same_on_the_clock(where: str, at: int, days: int) -> None:
    from datetime import datetime, timedelta

    local = zone(where)
    wanted = datetime.fromtimestamp(at, local).replace(tzinfo=None) - timedelta(days=days)
    found = same_time_before(at, days, local)
    assert [datetime.fromtimestamp(each, local).replace(tzinfo=None) for each in found] == [wanted] * len(found)
    assert len(set(found)) == len(found) <= 2


@pytest.mark.parametrize("name", ["Europe/Berlim", "", "../../etc/passwd", "/etc/localtime"])
def test_a_zone_that_is_not_known_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not known here"):
        zone(name)
