"""What the owner's settings mean for the parts of the forecast: gate, history, model, budget."""

from __future__ import annotations

from kube_cache.contracts.forecast import ForecastLimits
from kube_cache.forecast.condition import HistoryNeeds
from kube_cache.forecast.gate import GateRules
from kube_cache.forecast.headroom import TunedQuantile
from kube_cache.forecast.planner import Budget
from kube_cache.forecast.settings import ForecastSettings

# Of the waste that the gate allows: what the model may plan for, since the next week may be worse than the last two.
_PLANNED_WASTE = 0.8


def rules(settings: ForecastSettings) -> GateRules:
    return GateRules(min_hit_rate=settings.min_hit_rate, max_wasted=settings.max_wasted)


def needs(settings: ForecastSettings) -> HistoryNeeds:
    return HistoryNeeds(min_days=settings.min_days)


def model(settings: ForecastSettings) -> TunedQuantile:
    return TunedQuantile(wanted_hit_rate=settings.wanted_hit_rate, max_wasted=_PLANNED_WASTE * settings.max_wasted)


def budget(settings: ForecastSettings) -> Budget:
    return Budget(settings.max_copies, settings.max_bytes)


def limits(settings: ForecastSettings) -> ForecastLimits:
    return ForecastLimits(settings.min_hit_rate, settings.max_wasted, settings.max_copies, settings.max_bytes)
