"""Series for the tests: made demand with a known shape, in hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from kube_cache.forecast.series import DAY_S, Series

HOUR = 3600
UTC = ZoneInfo("UTC")
MONDAY = int(datetime(2026, 2, 2, tzinfo=UTC).timestamp())


def series(values: Iterable[float], *, start: int = MONDAY, step_s: int = HOUR, zone: ZoneInfo = UTC) -> Series:
    return Series.of(values, start=start, step_s=step_s, zone=zone)


def shaped(days: int, copies: Callable[[datetime], float], *, zone: ZoneInfo = UTC, start: int = MONDAY) -> Series:
    """Demand as a function of local time."""
    hours = days * DAY_S // HOUR
    moments = (datetime.fromtimestamp(start + hour * HOUR, zone) for hour in range(hours))
    return series([copies(moment) for moment in moments], start=start, zone=zone)


def office_hours(moment: datetime) -> float:
    """From 8 to 20 o'clock up to 12 copies, on each day."""
    return float(max(0, 6 - abs(moment.hour - 13)) * 2)


def moment(text: str) -> int:
    """Seconds since the epoch of an ISO time with an offset."""
    return int(datetime.fromisoformat(text).timestamp())
