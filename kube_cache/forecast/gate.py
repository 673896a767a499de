"""Decides whether a forecast may act: only if it would have paid in the last week, by its owner's measure.

On demand that nobody can forecast each policy wastes, and no look at the forecast tells so: only a replay does. Below
the hits or above the waste that the owner allows, the forecast goes on being made, scored and shown, and moves no
byte. The gate is looked at anew with each plan, so that it closes by itself when habits change and opens when they
return.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kube_cache.forecast.condition import DEFAULT_NEEDS, HistoryNeeds, State, examine
from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.replay import Score, plans, score
from kube_cache.forecast.series import DAY_S, Series


class Mode(enum.StrEnum):
    ACTS = "acts"
    FORECAST_ONLY = "forecast-only"


@dataclass(frozen=True)
class GateRules:
    """What an owner allows."""

    min_hit_rate: float = 0.7
    max_wasted: float = 0.5
    """Copies that are brought and never used, for each arrival."""
    backtest_s: int = 7 * DAY_S
    min_arrivals: int = 20
    """In the backtest; fewer prove nothing. Arbitrary: with 20, one hit more or less is 5 %."""


DEFAULT_RULES = GateRules()


@dataclass(frozen=True)
class Verdict:
    mode: Mode
    state: State
    reason: str
    """In words, for people."""
    score: Score
    """Of the backtest; of nothing where the history cannot be used."""

    @property
    def acts(self) -> bool:
        return self.mode is Mode.ACTS


def judge(
    history: Series,
    model: Model,
    lead: int,
    now: int,
    rules: GateRules = DEFAULT_RULES,
    needs: HistoryNeeds = DEFAULT_NEEDS,
) -> Verdict:
    """Replay the end of a history with the plans that the model would have made then.

    lead: slots from the last one known to the one planned, at least 1. now: seconds since the epoch.
    """
    state, wrong = examine(history, now, needs)
    if state is not State.USABLE:
        return Verdict(Mode.FORECAST_ONLY, state, f"forecast-only: {wrong}", Score())
    end = len(history)
    first = max(0, end - history.slots(rules.backtest_s))
    found = score(history, plans(history, model, lead, first, end), first)
    mode, reason = decide(found, rules)
    return Verdict(mode, state, f"{mode}: {reason}", found)


def decide(found: Score, rules: GateRules) -> tuple[Mode, str]:
    """Return what the score of a backtest allows, and why in words."""
    days = f"the last {rules.backtest_s / DAY_S:g} days"
    if found.arrivals < rules.min_arrivals:
        return Mode.FORECAST_ONLY, (
            f"{days} had {found.arrivals} arrivals, and {rules.min_arrivals} are needed to judge by: wait"
        )
    seen = f"{days} would have had {found.hit_rate:.0%} hits and {found.wasted_each:.2f} wasted copies for each arrival"
    asked = f"at least {rules.min_hit_rate:.0%} and at most {rules.max_wasted:.2f} are asked for"
    if found.hit_rate < rules.min_hit_rate or found.wasted_each > rules.max_wasted:
        return Mode.FORECAST_ONLY, f"{seen}; {asked}"
    return Mode.ACTS, f"{seen}; {asked}"
