"""How many cores this process may use, which in a container is fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> float:
    """Return the cores of the affinity mask, or of the cgroup's quota (`limits.cpu`) if that is less."""
    cores = float(len(os.sched_getaffinity(0)))
    quota, period = _quota_us(cgroups)
    return min(cores, quota / period) if quota > 0 and period > 0 else cores


def _quota_us(cgroups: Path) -> tuple[int, int]:
    """Return quota and period of cgroups v2 or v1; (0, 0) if there is no limit."""
    try:
        try:
            quota, period = (cgroups / "cpu.max").read_text().split()
        except FileNotFoundError:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return int(quota), int(period)
    except (OSError, ValueError):  # "max" is no number
        return 0, 0
