"""Formats and parses sizes, durations and priorities as people write them. Pure functions: workflows may use them."""

from __future__ import annotations

import re

from kube_cache.errors import InvalidRequest

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# ASCII digits, as in the admission policy that refuses such values before we see them.
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_PRIORITY = re.compile(r"[+-]?[0-9]+")
_MIN_PRIORITY, _MAX_PRIORITY = -100, 100
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def cut(text: str, max_bytes: int) -> str:
    """Shorten a text to at most `max_bytes` of UTF-8, between two characters: for a limit that counts bytes."""
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def format_bytes(count: float) -> str:
    """Format a number of bytes in binary units, as Kubernetes does: 1536 -> '1.5 KiB'."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError  # unreachable: the last unit always returns


def format_neighbours(sent: int, total: int, neighbours: int, *, at_least: bool = False) -> str:
    """Format the share that neighbours sent of the bytes that were fetched: '61 % from 7 neighbours'; empty for none.

    at_least: there may be more of them.
    """
    if sent <= 0:
        return ""
    percent = round(100 * sent / max(total, sent))
    share = f"{min(percent, 99 if sent < total else 100)}" if percent else "<1"
    few = "at least " if at_least else ""
    return f"{share} % from {few}{neighbours} neighbour{'' if neighbours == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds: 75 -> '1m15s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"
    hours, rest = divmod(whole, 3600)
    minutes, remaining = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{remaining:02d}s"


def parse_duration(text: str, *, name: str) -> float:
    """Parse a Go-style duration ('30m', '1h30m', '90s') into seconds.

    name: of the annotation or argument. Raises InvalidRequest that begins with it.
    """
    value = text.strip()
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise InvalidRequest(f"{name}: {text!r} is not a duration; write it like 30m, 1h30m or 90s")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_priority(text: str, *, name: str) -> int:
    """Parse a priority from -100 to 100, of which the higher goes first; 0 when empty.

    name: of the annotation. Raises InvalidRequest that begins with it.
    """
    value = text.strip()
    if not value:
        return 0
    priority = int(value) if len(value) < 20 and _PRIORITY.fullmatch(value) else None
    if priority is None or not _MIN_PRIORITY <= priority <= _MAX_PRIORITY:
        raise InvalidRequest(
            f"{name}: {text!r} is not a priority; write a whole number from {_MIN_PRIORITY} to {_MAX_PRIORITY}"
        )
    return priority
