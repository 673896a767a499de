"""The forecast's metrics say what the last report says, added up over datasets."""

from __future__ import annotations

from kube_cache.contracts.forecast import CopiesPlan, DatasetForecast, DayScore, Figures, ForecastReport, RunState
from kube_cache.telemetry import metrics
from tests.telemetry.scrape import value
from watcher.forecast_health import show

DAYS = [
    DayScore(0, 288, 288, Figures(10, 9, 12, 2, 3.0), Figures(10, 10, 12, 0, 50.0)),
    DayScore(86_400, 288, 288, Figures(5, 4, 5, 1, 1.0), Figures(5, 5, 0, 0, 40.0)),
]
REPORT = ForecastReport(
    RunState.PROMETHEUS_DOWN,
    "away",
    900,
    600,
    datasets=[
        DatasetForecast("s3://a", "acting", bytes_each=10, in_use=2, plan=CopiesPlan(0, 0, 5, 3, 4), days=DAYS),
        DatasetForecast("s3://b", "short"),
        DatasetForecast("s3://c", "a state of a newer build", in_use=1),
    ],
)


def test_what_the_last_run_left_is_shown() -> None:
    metrics.clear_as_follower()
    show(REPORT, 1000.0)
    assert value("kube_cache_forecast_run_state", state="prometheus-down") == 1
    assert value("kube_cache_forecast_run_state", state="ok") == 0
    assert value("kube_cache_forecast_success_age_seconds", operator="leader") == 400
    assert value("kube_cache_forecast_datasets", state="acting") == 1
    assert value("kube_cache_forecast_datasets", state="other") == 1
    copies = {kind: value("kube_cache_forecast_copies", kind=kind) for kind in ("in_use", "wanted", "planned")}
    assert copies == {"in_use": 3, "wanted": 4, "planned": 3}
    for policy, hits, misses in (("ours", 13, 2), ("reactive", 0, 15), ("always-on", 15, 0)):
        assert value("kube_cache_forecast_week_arrivals", policy=policy, outcome="hit") == hits
        assert value("kube_cache_forecast_week_arrivals", policy=policy, outcome="miss") == misses
    assert value("kube_cache_forecast_week_wasted_bytes", policy="ours") == 30
    assert value("kube_cache_forecast_week_idle_byte_seconds", policy="ours") == 4 * 3600 * 10
    assert value("kube_cache_forecast_week_idle_byte_seconds", policy="always-on") == 90 * 3600 * 10
    assert value("kube_cache_forecast_week_idle_byte_seconds", policy="reactive") == 0


def test_before_a_run_was_ok_no_age_is_told() -> None:
    metrics.clear_as_follower()
    show(ForecastReport(RunState.NO_DATA), 1000.0)
    assert value("kube_cache_forecast_success_age_seconds", operator="leader") is None
