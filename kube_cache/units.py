"""Sizes, rates and durations as people write and read them. Pure functions; workflows may use them."""

from __future__ import annotations

import re

from kube_cache.errors import InvalidRequest

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'; binary units, as Kubernetes uses them."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError  # unreachable: the last unit always returns


def format_seconds(seconds: float) -> str:
    """75 -> '1m15s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{secs:02d}s"


def parse_duration(text: str, *, name: str) -> float:
    """Seconds of a Go-style duration ('30m', '1h30m', '90s'). Raises InvalidRequest, naming `name`."""
    value = text.strip()
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise InvalidRequest(f"{name}: {text!r} is not a duration; write it like 30m, 1h30m or 90s")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_priority(text: str, *, name: str) -> int:
    """-100..100, 0 when empty; higher goes first. Raises InvalidRequest, naming `name`."""
    if not text.strip():
        return 0
    try:
        value = int(text)
    except ValueError:
        value = 1000
    if not -100 <= value <= 100:
        raise InvalidRequest(f"{name}: {text!r} is not a priority; write a whole number from -100 to 100")
    return value
