"""Processes of the operating system as /proc shows them, for tests that nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie: a dead child of a dead parent may wait for init to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(pids: Iterable[int]) -> list[int]:
    return [pid for pid in pids if alive(pid)]


def descendants(pid: int) -> list[int]:
    """Return the pids of children, grandchildren and so on, in no particular order."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            pids += [int(child), *descendants(int(child))]
    return pids
