"""Says which prefetches a report asks for: which to start or renew, and which to end.

A prefetch is renewed with each plan and ends by itself soon after the last one: whatever becomes of the forecast, of
Prometheus or of the schedule, no copy is kept for a plan that nobody makes any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kube_cache.contracts.forecast import AheadWanted, DatasetForecast, DatasetState, ForecastReport
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.forecast.rounds import copies_now, prefetch_name
from kube_cache.forecast.settings import ForecastSettings

_TOLD: Final = (DatasetState.ACTING, DatasetState.FORECAST_ONLY, DatasetState.UNRESOLVED)
# Slots that a placeholder lives beyond the lead. Each renewal takes its node's Pod away for a moment.
_PLACEHOLDER_SLOTS: Final = 6


def actions(
    before: ForecastReport, report: ForecastReport, settings: ForecastSettings
) -> tuple[ForecastReport, list[PrefetchSpec], list[str]]:
    """Return the report with its prefetches noted, the specifications to apply, and the names to cancel."""
    lived = {each.dataset: each for each in before.datasets if each.prefetch and each.prefetch_until > report.made_at}
    datasets: list[DatasetForecast] = []
    start: list[PrefetchSpec] = []
    end: list[str] = []
    for each in report.datasets:
        old = lived.pop(each.dataset, None)
        if copies := copies_now(each):
            spec = _specification(each, copies, settings)
            start.append(spec)
            until = report.made_at + int(spec.expires_s)
            datasets.append(replace(each, prefetch=spec.name, prefetch_until=until))
        elif old is not None and each.state not in _TOLD:
            datasets.append(each)  # nothing can be told: what was planned stays until its end
        else:
            if old is not None:
                end.append(old.prefetch)
            datasets.append(replace(each, prefetch="", prefetch_until=0))
    end.extend(old.prefetch for old in lived.values())
    return replace(report, datasets=datasets), start, end


def ahead(report: ForecastReport, settings: ForecastSettings) -> list[AheadWanted]:
    """Return the copies for which nodes must be there: of datasets that act, where the plan asks for any."""
    return [
        AheadWanted(each.dataset, copies, each.lead_s + _PLACEHOLDER_SLOTS * settings.step_s)
        for each in report.datasets
        if (copies := copies_now(each))
    ]


def renew_s(settings: ForecastSettings) -> float:
    """Return how long before its end a placeholder is made anew: the next run may be a slot late."""
    return 2 * settings.step_s


def _specification(each: DatasetForecast, copies: int, settings: ForecastSettings) -> PrefetchSpec:
    return PrefetchSpec(
        settings.namespace,
        prefetch_name(each.dataset),
        [each.dataset],
        selector=settings.node_selector,
        copies=copies,
        # The slot planned is over by then, and two runs have failed to renew it. The same each time, because another
        # specification would begin its downloads anew.
        expires_s=each.lead_s + 3 * settings.step_s,
        max_bytes_per_s=settings.max_bytes_per_s,
        idle=True,
    )
