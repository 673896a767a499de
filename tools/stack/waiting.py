"""Waits for a condition by polling; a time-out shows the last value seen. Tests do not sleep and hope."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_POLL_S = 0.02
_MAX_SHOWN = 3000  # characters


class WaitTimeout(AssertionError):
    """The condition did not come true; the message holds the last value seen."""


def until(
    read: Callable[[], T], accept: Callable[[T], Any], expected: str, timeout_s: float = 90, poll_s: float = _POLL_S
) -> T:
    """Poll `read` until `accept` takes its value, and return that. Raises WaitTimeout that names `expected`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = read()
        if accept(value):
            return value
        if time.monotonic() > deadline:
            raise WaitTimeout(f"not within {timeout_s} s: {expected}; last seen:\n{_shown(value)}")
        time.sleep(poll_s)


def true(read: Callable[[], Any], expected: str, timeout_s: float = 90, poll_s: float = _POLL_S) -> Any:
    """Poll `read` until its value is truthy, and return that. Raises WaitTimeout that names `expected`."""
    return until(read, lambda value: value, expected, timeout_s, poll_s)


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, indent=1, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + " …"
