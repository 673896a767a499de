"""Yardsticks for the store's check: what a shell would do to see whether 100,000 files are unchanged."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from pathlib import Path

_REPEATS = 5


def yardsticks(data: Path) -> dict[str, float]:
    """Milliseconds each, median; only of the tools that are there."""
    commands = {
        "find -printf (size, times, inode)": ["find", str(data), "-type", "f", "-printf", "%s %T@ %C@ %i %P\\n"],
        "du -s": ["du", "-s", str(data)],
        "ls -lR --full-time": ["ls", "-lRi", "--full-time", str(data)],
        "rsync --dry-run (onto itself)": ["rsync", "-a", "--dry-run", f"{data}/", str(data)],
    }
    return {name: _median_ms(command) for name, command in commands.items() if shutil.which(command[0])}


def _median_ms(command: list[str]) -> float:
    taken = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
