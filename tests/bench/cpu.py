"""CPU seconds of the stack's processes, from /proc: what a release costs, and whom."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tools.stack.processes import Processes

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(processes: Processes) -> Counter[str]:
    """By name; agents together. The bench itself is `bench`."""
    used: Counter[str] = Counter()
    for process in processes.running:
        name = "agents" if process.name.startswith("agent-") else process.name
        used[name] += _of(process.pid)
    used["bench"] = _of(os.getpid())
    return used


def between(before: Counter[str], after: Counter[str], pods: int) -> dict[str, float]:
    """Milliseconds of CPU per Pod, the greatest first."""
    spent = {name: 1e3 * (after[name] - before[name]) / pods for name in after}
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def _of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
