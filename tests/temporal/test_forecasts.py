"""Reports of the forecast travel packed, small enough for hundreds of datasets, and come back whole."""

from __future__ import annotations

import base64
import json
import random
import zlib

import pytest

from kube_cache.contracts.forecast import (
    DAYS_OF_SCORE,
    MAX_CURVE_SLOTS,
    MAX_DATASETS,
    UNKNOWN,
    Backtest,
    CopiesPlan,
    DatasetForecast,
    DatasetState,
    DayScore,
    Figures,
    ForecastReport,
    RunState,
    ScoredPlan,
)
from kube_cache.temporal.forecasts import pack, unpack

TEMPORAL_WARNS_AT = 512 << 10
"""Bytes of one payload, by the server's defaults."""


def full(number: int) -> DatasetForecast:
    made = random.Random(number)
    figures = Figures(made.randrange(999), made.randrange(999), made.randrange(99), made.randrange(99), made.random())
    return DatasetForecast(
        f"s3://models/team-{made.randrange(99)}/{number:040x}/",
        DatasetState.FORECAST_ONLY,
        "forecast-only: the last 7 days would have had 26% hits and 0.49 wasted copies for each arrival; at least 70%"
        " and at most 0.50 are asked for",
        bytes_each=made.randrange(1 << 40),
        in_use=3,
        expected=[made.randrange(30) for _ in range(MAX_CURVE_SLOTS)],
        planned=[made.randrange(30) for _ in range(MAX_CURVE_SLOTS)],
        seen=[made.choice((UNKNOWN, made.randrange(30))) for _ in range(MAX_CURVE_SLOTS)],
        plan=CopiesPlan(1_800_000_000, 1_800_000_300, 4, 1, 2, 5.25, "1 of 2 copies: the budget is shared"),
        backtest=Backtest(1_800_000_000, False, figures, 0.35),
        days=[DayScore(day, 288, 0, figures, figures) for day in range(DAYS_OF_SCORE)],
        pending=[ScoredPlan(slot, 4, False) for slot in range(8)],
    )


def test_a_report_comes_back_as_it_was() -> None:
    report = ForecastReport(RunState.OK, "", 5, 5, 300, "Europe/Berlin", "sum(x)", datasets=[full(1), full(2)])
    assert unpack(pack(report)) == report


def test_the_largest_report_is_no_burden_for_temporal() -> None:
    report = ForecastReport(RunState.OK, datasets=[full(number) for number in range(MAX_DATASETS)])
    assert len(pack(report)) < TEMPORAL_WARNS_AT


def test_a_report_of_a_newer_build_is_read() -> None:
    newer = {"state": "ok", "shine": 1, "datasets": [{"dataset": "s3://a/b", "state": "dreaming", "mood": 2}]}
    packed = base64.b64encode(zlib.compress(json.dumps(newer).encode())).decode()
    assert unpack(packed) == ForecastReport("ok", datasets=[DatasetForecast("s3://a/b", "dreaming")])


@pytest.mark.parametrize("packed", [pytest.param("", id="empty"), pytest.param("bm9uZQ==", id="no zlib")])
def test_what_is_no_report_is_told(packed: str) -> None:
    with pytest.raises(ValueError, match="no report of a forecast"):
        unpack(packed)
