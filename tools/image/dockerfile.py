"""Reads the Dockerfile of the image: the few instructions that it uses, and an error for every other.

So the image without Docker has the same stages by construction: nothing of them is written down a second time.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MOUNT: Final = re.compile(r"--mount=type=cache,target=(\S+)\s+")
_VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?")


class UnknownInstruction(ValueError):
    """The Dockerfile has an instruction that this reader does not know."""


@dataclass(frozen=True)
class Copy:
    sources: tuple[str, ...]
    target: str
    stage: str = ""
    """Name of the stage that it copies from; empty = the checkout."""


@dataclass(frozen=True)
class Run:
    command: str
    caches: tuple[str, ...] = ()
    """Folders that are kept between builds and are no part of the stage."""


@dataclass
class Stage:
    base: str
    name: str = ""
    steps: list[Copy | Run] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def read(path: Path, arguments: Mapping[str, str]) -> list[Stage]:
    """Read all stages. arguments: values of ARG instead of their defaults. Raises UnknownInstruction."""
    stages: list[Stage] = []
    values: dict[str, str] = {}
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
            values = {}
        elif word == "ARG":
            name, _, default = rest.partition("=")
            values[name] = arguments.get(name, default)
        else:
            _add(stages[-1], word, rest, values)
    return stages


def _add(stage: Stage, word: str, rest: str, values: Mapping[str, str]) -> None:
    match word:
        case "COPY":
            words = rest.split()
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
            if words[0].startswith("--"):
                raise UnknownInstruction(f"COPY {words[0]}")
            stage.steps.append(Copy(tuple(words[:-1]), words[-1], origin))
        case "RUN":
            caches = tuple(_MOUNT.findall(rest))
            command = _MOUNT.sub("", rest)
            if command.startswith("--"):
                raise UnknownInstruction(f"RUN {command}")
            stage.steps.append(Run(command, caches))
        case "ENV":
            stage.environment |= _pairs(rest, values)
        case "LABEL":
            stage.labels |= _pairs(rest, values)
        case "USER":
            stage.user = rest
        case "WORKDIR":
            stage.folder = rest
        case "ENTRYPOINT":
            stage.entrypoint = tuple(json.loads(rest))
        case "CMD":
            stage.command = tuple(json.loads(rest))
        case _:
            raise UnknownInstruction(word)


def _pairs(text: str, values: Mapping[str, str]) -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(text))
    return {name: _VARIABLE.sub(lambda match: values[match[1]], value) for name, _, value in pairs}
