"""Puts the forecast together: its schedule, the metric of demand, and the metrics of its last run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from temporalio.client import Client

from kube_cache.forecast.settings import ForecastSettings
from kube_cache.kube import placeholders
from kube_cache.kube.cache_nodes import parse_selector
from kube_cache.kube.client import KubeClient
from kube_cache.kube.placeholder_terms import parse_resources, parse_tolerations
from kube_cache.kube.placeholders import Asked
from kube_cache.settings import Settings
from kube_cache.temporal import forecast_schedule
from watcher.demand import DemandIndex, DemandMetric
from watcher.forecast_health import ForecastHealth
from watcher.placeholders import PlaceholderSweep


def places(settings: ForecastSettings) -> bool:
    """Whether placeholder Pods may stand."""
    return settings.enabled and settings.max_placeholders > 0


def asked(settings: Settings) -> Asked:
    """Return what a placeholder Pod asks for: a node that the plans may choose, as large as the owner says."""
    return Asked(
        parse_resources(settings.forecast.placeholder_resources),
        parse_tolerations(settings.forecast.placeholder_tolerations),
        {**parse_selector(settings.operator.node_selector), **parse_selector(settings.forecast.node_selector)},
        settings.operator.seat_image,
    )


async def schedule(client: Client, kube: KubeClient, settings: Settings) -> None:
    """Have the forecast run, or have it run no more; without placeholder Pods where none are wanted.

    Raises RPCError, ApiError.
    """
    if settings.forecast.enabled:
        await forecast_schedule.ensure(client, step_s=settings.forecast.step_s)
    else:
        await forecast_schedule.remove(client)
    if not places(settings.forecast):
        await asyncio.to_thread(placeholders.delete_all, kube, settings.operator.namespace)


def parts(
    client: Client, kube: KubeClient, settings: Settings, index: DemandIndex, is_known: Callable[[], bool]
) -> list[Coroutine[Any, Any, None]]:
    """Return what runs as long as the operator; nothing while the forecast is off. is_known: it leads and knows all."""
    if not settings.forecast.enabled:
        return []
    running = [DemandMetric(index, is_known).run(), ForecastHealth(client, is_known).run()]
    if places(settings.forecast):
        running.append(PlaceholderSweep(kube, settings.operator.namespace, is_known).run())
    return running
