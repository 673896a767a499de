"""Runs pytest on a folder of made-up tests, with one plugin of this project and none of its settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(folder: Path, plugin: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Return the run's exit code and its output: the names of tests are relative to the folder."""
    command = [str(Path(sys.executable).with_name("pytest")), "-c", "/dev/null", f"--rootdir={folder}"]
    command += ["-p", f"tests.plugins.{plugin}", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
