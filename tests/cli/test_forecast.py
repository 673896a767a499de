"""`kube-cache forecast`: says first whether anybody acts, then curve, plan and score; as text, JSON and a picture."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from cli import forecast, forecast_svg
from cli.forecast_chart import chart, sparkline, squeezed
from kube_cache.contracts.forecast import (
    UNKNOWN,
    Backtest,
    CopiesPlan,
    DatasetForecast,
    DatasetState,
    DayScore,
    Figures,
    ForecastReport,
    RunState,
)
from kube_cache.contracts.node import ExitCode
from kube_cache.insight.sources import Sources

NINE = 1_800_003_600
GIB = 1 << 30
SCORE = DayScore(NINE, 288, 144, Figures(40, 38, 10, 3, 12.5), Figures(40, 40, 0, 0, 500.0))
ACTING = DatasetForecast(
    "s3://models/gpt",
    DatasetState.ACTING,
    bytes_each=2 * GIB,
    in_use=4,
    highest=9,
    lead_s=600,
    curve_start=NINE,
    curve_step_s=300,
    expected=[2, 4, 8, UNKNOWN],
    planned=[4, 6, 8, 8],
    seen=[1, UNKNOWN, 2],
    plan=CopiesPlan(NINE + 600, NINE + 900, 8, 4, 6, 8.4, "max_idle_copies is 4"),
    prefetch="forecast-abc",
    prefetch_until=NINE + 7200,
    backtest=Backtest(NINE, True, Figures(40, 38, 10, 3, 12.5)),
    days=[SCORE],
)
CLOSED = replace(
    ACTING,
    dataset="s3://models/tweets",
    state=DatasetState.FORECAST_ONLY,
    reason="26 % hits in the last week, 70 % are asked for",
    backtest=Backtest(NINE, False, Figures(100, 26, 50, 49, 1)),
    prefetch="",
)
SHORT = DatasetForecast("s3://models/new", DatasetState.SHORT, "3 days of history, 14 are needed")
REPORT = ForecastReport(
    RunState.OK, made_at=NINE, ok_at=NINE, step_s=300, zone="Europe/Berlin", datasets=[ACTING, CLOSED, SHORT]
)

Show = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    monkeypatch.setenv("COLUMNS", "200")

    def show(report: ForecastReport | None = REPORT, dataset: str = "", *, code: int = 0, **options: Any) -> str:
        async def latest(_client: object) -> ForecastReport | None:
            return report

        monkeypatch.setattr(forecast.forecasts, "latest", latest)
        given = {"limit": 100, "svg": "", "as_json": False, **options}
        sources = Sources(temporal=object())  # type: ignore[arg-type]
        assert asyncio.run(forecast.show(sources, dataset, **given)) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    return show


def test_nodes_that_are_not_asked_for_are_told(shown: Show) -> None:
    assert "datasets. 2 nodes are missing." in shown(replace(REPORT, message="2 nodes are missing"))


def test_the_list_says_of_each_whether_it_acts_and_why_not(shown: Show) -> None:
    text = shown()
    assert "it acts for 1 of 3 datasets" in text
    line = next(line for line in text.splitlines() if "s3://models/gpt" in line)
    for words in ("acting", "8 copies", "95 %", "6.0 GiB", "12.5 h", "2 %"):
        assert words in line
    words = " ".join(text.split())
    assert "forecast-only, moves nothing: 26 % hits in the last week" in words
    assert "no plan (short): 3 days of history" in words


def test_one_dataset_has_its_curve_its_plan_and_a_score_beside_reactive_and_always_on(shown: Show) -> None:
    text = shown(dataset="s3://models/gpt")
    assert "8 copies by" in text
    assert "4 of them idle of 6 that the forecast asks for (max_idle_copies is 4)" in text
    assert "carried out by prefetch forecast-abc" in text
    assert "░" in text
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "38 (95 %)" in rows["ours"]
    assert "0 (0 %)" in rows["reactive"]
    assert "500.0" in rows["always on"]
    assert "50 % of them carried out" in text
    assert "it acts" in text
    assert "it does not act" in shown(dataset="s3://models/tweets")


def test_a_run_that_made_no_plan_says_so_before_anything_else(shown: Show) -> None:
    down = replace(REPORT, state=RunState.PROMETHEUS_DOWN, message="connection refused; look at the address")
    assert "made no plan: prometheus-down: connection refused; look at the address. What follows is of" in shown(down)


def test_without_a_run_or_without_demand_it_is_absent(shown: Show) -> None:
    assert "KUBE_CACHE_FORECAST__ENABLED" in shown(None, code=ExitCode.ABSENT)
    assert "knows no demand of s3://models/x" in shown(dataset="s3://models/x", code=ExitCode.ABSENT)


def test_the_document_has_the_documented_keys(shown: Show) -> None:
    document = json.loads(shown(as_json=True, limit=2))
    assert set(document) == {
        "state", "message", "made_at", "ok_at", "step_s", "zone", "expression", "limits", "speed_bytes_per_s", "left_out",
        "datasets", "shown", "total",
    }  # fmt: skip
    assert (document["shown"], document["total"]) == (2, 3)
    row, closed = document["datasets"]
    assert (row["acts"], closed["acts"], closed["reason"]) == (True, False, CLOSED.reason)
    assert row["score"]["ours"]["hits"] == 38
    assert row["expected"] == [2, 4, 8, UNKNOWN]
    assert not {"pending", "tally", "scored_until"} & set(row)


def test_a_state_of_a_newer_operator_is_shown_as_it_is(shown: Show) -> None:
    newer = replace(REPORT, datasets=[replace(SHORT, state="dreaming", reason="of sheep")])
    assert "no plan (dreaming): of sheep" in shown(newer)
    assert "no plan (dreaming): of sheep" in shown(newer, "s3://models/new")


def test_curves_keep_their_peaks_and_show_what_is_unknown() -> None:
    assert squeezed([1, 9, 2, 3], 2) == [9, 3]
    assert squeezed([1, 2], 9) == [1, 2]
    assert sparkline([0, 4, 8, UNKNOWN], 10) == " ▄█·"
    assert sparkline([], 10) == ""
    long = replace(ACTING, seen=[1] * 96, expected=[5] * 96, planned=[7] * 96)
    lines = [line.plain for line in chart(long, 60, lambda _: "09:00")]
    assert max(map(len, lines)) <= 67
    assert any("░" in line and "█" not in line for line in lines), "the plan reaches above what is expected"
    assert chart(replace(ACTING, seen=[], expected=[], planned=[]), 60, lambda _: "09:00")


def test_the_picture_is_well_formed_names_the_state_and_leaves_gaps(tmp_path: Path, shown: Show) -> None:
    file = tmp_path / "curve.svg"
    odd = replace(ACTING, dataset="s3://models/<script>&")
    shown(replace(REPORT, datasets=[odd, CLOSED, SHORT]), svg=str(file))
    root = ET.parse(file).getroot()
    texts = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert "s3://models/<script>&" in texts
    assert "acting" in texts
    assert any(text and text.startswith("forecast-only: 26 % hits") for text in texts)
    assert "no curve" in texts
    paths = [node.get("d", "") for node in root.iter() if node.tag.endswith("path")]
    assert any(path.count("M") == 2 for path in paths), "a value that is unknown is a gap"
    assert "cannot write" in shown(svg=str(tmp_path / "gone" / "x.svg"), code=ExitCode.FAILED)
    assert forecast_svg.draw([], forecast._zone(REPORT)).startswith("<svg")


def test_a_zone_that_this_machine_does_not_know_is_shown_in_utc() -> None:
    elsewhere = replace(REPORT, zone="Moon/Base")
    with Console(width=200).capture():
        assert forecast.head(elsewhere).plain.startswith("Forecast of")
