"""Texts of the page: what may be shown of a dataset's URI, and sizes and times as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from kube_cache.units import format_seconds

# A URI's user and password, and what follows its path: a presigned query is a credential.
_USER: Final = re.compile(r"(?<=://)[^\s/@]*@")
_QUERY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#,;]*)[?#][^\s,;]*")


@lru_cache(4096)
def public(text: str) -> str:
    """Return the text with each URI in it cut down to scheme, host and path."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def clock_time(at: float) -> str:
    """Format a time, in UTC: an operator does not know where its viewers are."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def day_and_clock(at: float) -> str:
    """Format a time that may be days away, in UTC, to the minute."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(seconds: float) -> str:
    """Format how long something has lasted: in steps that grow, so that a row changes seldom."""
    if seconds < 60:
        return f"{int(max(0.0, seconds)) // 5 * 5}s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m"
    return format_seconds(seconds)


def short(seconds: float) -> str:
    """Format the duration of a step: '20 ms', '1.5s', '3m20s'."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else format_seconds(seconds)
