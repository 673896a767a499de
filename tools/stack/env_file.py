"""`.stack/env`: what a shell or a program needs to use a stack that is up. Written whole, or not there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, values: Mapping[str, str]) -> None:
    """Plain `NAME=value` lines: good for `set -a; . .stack/env`, for `env $(cat …)` and for dotenv readers."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
    aside = path.with_suffix(".new")
    aside.touch(mode=0o600)
    aside.write_text("".join(lines))
    aside.replace(path)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def under(folder: Path) -> Path:
    return folder.resolve() / "env"
