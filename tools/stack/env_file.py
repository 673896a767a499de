"""`.stack/env`: the variables with which a shell or a program uses a running stack. Never half written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write `NAME=value` lines, which `set -a; . .stack/env`, `env $(cat …)` and dotenv readers understand."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text("".join(lines))
    temporary.replace(path)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def under(folder: Path) -> Path:
    return folder.resolve() / "env"
