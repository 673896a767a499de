"""Where tools keep what takes long to build, outside the checkout, so that a second checkout builds nothing."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str, variable: str) -> Path:
    """Return the folder of one kind of thing. variable: of the environment, with which a person moves it."""
    if explicit := os.environ.get(variable):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-cache" / name
