"""Words for the mark that a prefetch leaves on a snapshot of a node's disk. Imports neither Temporal nor the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def words_of_mark(mark: Mapping[str, Any]) -> str:
    """Say until when the snapshot is kept, and whether a Pod has used it. mark: as `store ls --json` has it."""
    until = mark["until"]
    words = f"until {clock(until)}" if until is not None and until > time.time() else "ended"
    return words if mark["used"] else f"{words}, unused"


def clock(at: float) -> str:
    """Format a time in the zone of the reader, to the minute. at: seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
