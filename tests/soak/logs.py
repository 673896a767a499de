"""Lines of the product's logs that tell of a mistake in the product, whatever the world around it does.

A part that is away may be told a hundred times. An error that could not be told, a task whose error nobody took, and a
history that the code does not follow are never the fault of a server that is down.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_MISTAKES = (
    "Exception handling failed",
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
    "Failed handling activation",
    "Failed to complete workflow task",
)
_NONDETERMINISM = ("TMPRL1100", "Nondeterminism")
_MAX_WORDS = 160


def mistakes(logs: Iterable[Path]) -> list[str]:
    """Return each kind of mistake with its number and the words of the first."""
    found: Counter[tuple[str, str]] = Counter()
    words: dict[tuple[str, str], str] = {}
    for log in logs:
        with log.open(errors="replace") as lines:
            for line in lines:
                if kind := _kind(line):
                    key = (log.stem, kind)
                    found[key] += 1
                    words.setdefault(key, _event(line)[:_MAX_WORDS])
    return [f"{name}: {kind}, {count} times: {words[name, kind]}" for (name, kind), count in sorted(found.items())]


def _kind(line: str) -> str:
    event = _event(line)
    for kind in _MISTAKES:
        if event.startswith(kind):
            return kind
    return next((word for word in _NONDETERMINISM if word in line), "")


def _event(line: str) -> str:
    if line.startswith("{"):
        try:
            return str(json.loads(line).get("event", ""))
        except ValueError:  # cut by a kill
            return ""
    return line.strip()
