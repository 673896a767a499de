"""CPU seconds of the stack's processes and of the rest of the machine during a bench, from /proc."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

from tools.stack.processes import Processes

OTHERS = "others"
_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # idle and iowait, among the fields of /proc/stat's first line
_CALIBRATION, _CALIBRATIONS = 1_000_000, 10


def seconds(processes: Processes) -> dict[str, float]:
    """By name; agents together, the bench itself as `bench`, and what else the machine did as `others`."""
    used: dict[str, float] = defaultdict(float)
    for process in processes.running:
        name = "agents" if process.name.startswith("agent-") else process.name
        used[name] += _of(process.pid)
    used["bench"] = _of(os.getpid())
    used[OTHERS] = _machine() - sum(used.values())
    return used


def between(before: dict[str, float], after: dict[str, float], pods: int) -> dict[str, float]:
    """Milliseconds of CPU per Pod, the greatest first, `others` last."""
    spent = {name: 1e3 * (after[name] - before.get(name, 0.0)) / pods for name in after}
    return dict(sorted(spent.items(), key=lambda item: (item[0] == OTHERS, -item[1])))


def core_speed() -> float:
    """Millions of turns of a trivial loop a second on one core: to compare figures of two machines, or of two days."""
    best = 0.0
    for _ in range(_CALIBRATIONS):
        began = time.perf_counter()
        for _ in range(_CALIBRATION):
            pass
        best = max(best, _CALIBRATION / (time.perf_counter() - began) / 1e6)
    return best


def _of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _machine() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(field for position, field in enumerate(fields) if position not in _IDLE) / _TICKS
