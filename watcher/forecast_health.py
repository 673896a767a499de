"""Exports what the last run of the forecast has left, as metrics of the leading operator; any operator ran it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
from temporalio.client import Client

from kube_cache.contracts.forecast import ForecastReport
from kube_cache.telemetry import forecast_metrics, metrics
from kube_cache.temporal import forecasts
from watcher.looks import keep_looking

_log = structlog.get_logger("kube_cache.forecast")
_EVERY_S: Final = 30.0
_HOUR_S: Final = 3600


class ForecastHealth:
    """Belongs to one event loop."""

    def __init__(self, client: Client, is_leading: Callable[[], bool]) -> None:
        self._client = client
        self._is_leading = is_leading

    async def run(self) -> None:
        """Look twice a minute, while this operator leads."""
        await keep_looking(
            self._look, self._is_leading, _EVERY_S, _log, "cannot tell how the forecast goes; looking again"
        )

    async def _look(self) -> None:
        report = await forecasts.latest(self._client)
        if report is not None:
            show(report, time.time())


def show(report: ForecastReport, now: float) -> None:
    """Set the metrics. now: in seconds since the epoch."""
    for state in forecast_metrics.RUN_STATES:
        forecast_metrics.RUN_STATE.labels(state).set(state == report.state)
    if report.ok_at:
        metrics.set_as_leader(forecast_metrics.AGE, now - report.ok_at)
    states = Counter(each.state for each in report.datasets)
    metrics.show_counts(forecast_metrics.DATASETS, forecast_metrics.DATASET_STATES, states)
    plans = [each.plan for each in report.datasets if each.plan is not None]
    forecast_metrics.COPIES.labels("in_use").set(sum(max(0, each.in_use) for each in report.datasets))
    forecast_metrics.COPIES.labels("wanted").set(sum(plan.wanted for plan in plans))
    forecast_metrics.COPIES.labels("planned").set(sum(plan.idle for plan in plans))
    _show_week(report)


def _show_week(report: ForecastReport) -> None:
    arrivals: Counter[tuple[str, str]] = Counter()
    wasted: Counter[str] = Counter()
    idle: Counter[str] = Counter()
    for each in report.datasets:
        score = each.score()
        for policy, figures in (("ours", score.ours), ("always-on", score.always_on)):
            arrivals[policy, "hit"] += figures.hits
            arrivals[policy, "miss"] += figures.misses
            wasted[policy] += figures.wasted * each.bytes_each
            idle[policy] += int(figures.idle_h * _HOUR_S * each.bytes_each)
        arrivals["reactive", "miss"] += score.ours.arrivals
    for policy in forecast_metrics.POLICIES:
        for outcome in ("hit", "miss"):
            forecast_metrics.WEEK_ARRIVALS.labels(policy, outcome).set(arrivals[policy, outcome])
        forecast_metrics.WEEK_WASTED_BYTES.labels(policy).set(wasted[policy])
        forecast_metrics.WEEK_IDLE_BYTE_SECONDS.labels(policy).set(idle[policy])
