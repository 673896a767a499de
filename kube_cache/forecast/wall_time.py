"""Finds the same time of day some days ago by the clock on the wall, where the clocks change.

People come at 9 o'clock, not at 8:00 UTC, so the history of a slot is looked up in local time. A day has 23 or 25
hours when the clocks change: a time of day may have happened never or twice. Both are told as they are, and nothing is
made up for a time that never was. Offsets come from `zoneinfo`, which reads the system's tz database.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kube_cache.errors import InvalidRequest

_DAY_S = 86_400


def zone(name: str) -> ZoneInfo:
    """Return the time zone of that name. Raises InvalidRequest, also where the machine has no tz database."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"time zone: {name!r} is not known here; write it like Europe/Berlin, or install tzdata", zone=name
        ) from error


def same_time_before(moment: int, days: int, zone: ZoneInfo) -> tuple[int, ...]:
    """Return the moments at which the clock showed the same time `days` calendar days before, oldest first.

    moment and result: seconds since the epoch. Empty where the clocks skipped that time, two where they repeated it.
    """
    wall = moment + _offset(moment, zone) - days * _DAY_S
    # A zone changes at most once within two days, so that one of these two offsets was valid at the time in question.
    offsets = {_offset(wall - _DAY_S, zone), _offset(wall + _DAY_S, zone)}
    return tuple(sorted(wall - offset for offset in offsets if _offset(wall - offset, zone) == offset))


def _offset(moment: int, zone: ZoneInfo) -> int:
    """Local time minus UTC, in seconds."""
    offset = datetime.fromtimestamp(moment, zone).utcoffset()
    assert offset is not None  # a ZoneInfo has one at each moment
    return int(offset.total_seconds())
