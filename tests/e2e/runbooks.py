"""Reads the commands of a runbook, and types them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from tests.deploy import monitoring
from tests.e2e.promises import kubectl, temporal
from tools.stack import Stack


def looked(stack: Stack, page: str, names: Mapping[str, str] | None = None) -> str:
    """Type what a page's `How to look` says, with these names in place of its own; what kubectl and temporal answer.

    Fake nodes have no logs and no `top`, and what follows a pipe only shortens an answer.
    """
    told = []
    for line in re.findall(r"^\$ (.+)$", _text(page).partition("## What to do")[0], flags=re.MULTILINE):
        command = re.split(r" \| | +# ", line)[0]
        for name, value in (names or {}).items():
            command = command.replace(name, value)
        program, *words = shlex.split(command)
        if program in ("kubectl", "temporal") and words[0] not in ("logs", "top"):
            told.append((kubectl if program == "kubectl" else temporal)(stack, *words))
    return "\n".join(told)


def remedies(page: str) -> list[list[str]]:
    """Return the commands that a page's `What to do` names in its sentences, each as words."""
    text = _text(page).partition("## What to do")[2].partition("\n## ")[0]
    found = re.findall(r"`((?:temporal|kubectl|kube-cache) [^`]+)`", text)
    return [shlex.split(" ".join(command.partition(" > ")[0].split())) for command in found]


def _text(page: str) -> str:
    return (monitoring.ROOT / "docs" / "runbooks" / f"{page}.md").read_text().replace("\\\n", "")
