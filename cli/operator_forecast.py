"""Puts the forecast together: its schedule, the metric of demand, and the metrics of its last run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from temporalio.client import Client

from kube_cache.forecast.settings import ForecastSettings
from kube_cache.temporal import forecast_schedule
from watcher.demand import DemandIndex, DemandMetric
from watcher.forecast_health import ForecastHealth


async def schedule(client: Client, settings: ForecastSettings) -> None:
    """Have the forecast run, or have it run no more. Raises RPCError."""
    if settings.enabled:
        await forecast_schedule.ensure(client, step_s=settings.step_s)
    else:
        await forecast_schedule.remove(client)


def parts(
    client: Client, settings: ForecastSettings, index: DemandIndex, is_known: Callable[[], bool]
) -> list[Coroutine[Any, Any, None]]:
    """Return what runs as long as the operator; nothing while the forecast is off. is_known: it leads and knows all."""
    if not settings.enabled:
        return []
    return [DemandMetric(index, is_known).run(), ForecastHealth(client, is_known).run()]
