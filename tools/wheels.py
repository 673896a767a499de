"""Builds the wheels that people install on their machines: `make wheels`, into `dist/`.

Two of one version, of which pip takes the first that fits:

* `…-cp311-abi3-manylinux_…`: Linux, Python 3.11 and newer, with the natives but for the engine's TLS, whose libssl may
  be missing or another one there. The tag names the oldest glibc that has every symbol of the natives.
* `…-py3-none-any`: every other machine; the command line without `fetch`, `store`, `agent` and `operator`.

They never go to a public index (pyproject.toml says why): people install the file, or its URL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "dist"
KINDS: Final = ("portable", "none")
"""Values of KUBE_CACHE_NATIVES; see tools/build_native.py."""


def build(output: Path = OUTPUT) -> list[Path]:
    """Build all wheels. Equal sources make equal files. Raises CalledProcessError."""
    for kind in KINDS:
        environment = os.environ | {"KUBE_CACHE_NATIVES": kind, "SOURCE_DATE_EPOCH": "315532800"}
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return sorted(output.glob("kube_cache-*.whl"))


if __name__ == "__main__":
    for path in build():
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")
