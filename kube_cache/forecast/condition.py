"""Names what is wrong with a history before anybody forecasts from it.

A wrong expression, a broken exporter and a young cluster all give numbers, and a forecaster makes a plan of any
numbers. Each such history has a named state and a sentence for people; nothing is planned from it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from kube_cache.forecast.series import DAY_S, Series
from kube_cache.units import format_seconds


class State(enum.StrEnum):
    USABLE = "usable"
    EMPTY = "empty"
    """No slot was measured."""
    SHORT = "short"
    """Fewer days than are needed."""
    STALE = "stale"
    """Nothing was measured lately."""
    GAPS = "gaps"
    """Too many slots were not measured."""
    NEGATIVE = "negative"
    ABSURD = "absurd"
    """More copies than there can be, or infinitely many."""


@dataclass(frozen=True)
class HistoryNeeds:
    min_days: float = 14.0
    """From the first measurement to the last: a week to learn from, and a week to replay."""
    min_measured: float = 0.5
    """Share of the slots in between."""
    max_age_s: int = 3 * 3600
    """Of the last measurement. Without a level of today a plan is only last week's."""
    max_copies: int = 100_000
    """More than anybody has nodes: beyond, the expression counts bytes or seconds."""


DEFAULT_NEEDS = HistoryNeeds()


def examine(history: Series, now: int, needs: HistoryNeeds = DEFAULT_NEEDS) -> tuple[State, str]:
    """Return the state of a history, and what is wrong in words, with the remedy; no words where it is usable.

    now: seconds since the epoch.
    """
    measured = [slot for slot, value in enumerate(history.values) if not math.isnan(value)]
    if not measured:
        return State.EMPTY, "no demand was measured: check that the expression gives a series for this dataset"
    lowest = min(measured, key=history.value)
    highest = max(measured, key=history.value)
    if history.value(lowest) < 0:
        return State.NEGATIVE, (
            f"demand was {history.value(lowest):g} at {history.time(lowest)}: the expression must count copies in use, "
            "which are never negative"
        )
    if history.value(highest) > needs.max_copies:
        return State.ABSURD, (
            f"demand was {history.value(highest):g} at {history.time(highest)}, more than {needs.max_copies:,} copies: the "
            "expression must count copies in use, not bytes or seconds"
        )
    age = now - history.time(measured[-1] + 1)
    if age > needs.max_age_s:
        return State.STALE, (
            f"the last measurement is {format_seconds(age)} old (at most {format_seconds(needs.max_age_s)}): check that "
            "Prometheus scrapes what the expression reads"
        )
    days = (measured[-1] + 1 - measured[0]) * history.step_s / DAY_S
    if days < needs.min_days:
        return State.SHORT, f"{days:.1f} days of demand are known and {needs.min_days:g} are needed: wait"
    share = len(measured) / (measured[-1] + 1 - measured[0])
    if share < needs.min_measured:
        return State.GAPS, (
            f"only {share:.0%} of the slots were measured (at least {needs.min_measured:.0%}): check that Prometheus keeps "
            "what the expression reads, or use a longer step"
        )
    return State.USABLE, ""
