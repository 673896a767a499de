"""Builds the engine's one native module, as a build hook of hatchling or by `python tools/build_native.py`.

`kube_cache/storage/engine/_tls.c` needs a C compiler, Python's headers and OpenSSL's (Debian: libssl-dev). Where one is missing
a line says so and the package is built without: the engine then uses Python's `ssl`, which is slower.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand in an environment without it
    BuildHookInterface = object  # type: ignore[assignment, misc]

FOLDER = "kube_cache/storage/engine"
SOURCE = f"{FOLDER}/_tls.c"
TARGET = f"{FOLDER}/_tls.abi3.so"


def build(root: Path) -> bool:
    """False when it cannot be built here; the reason has been printed."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    aside = root / f"{TARGET}.{os.getpid()}"
    command = [
        *compiler,
        *("-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-cast-function-type", "-shared", "-fPIC"),
        *(f"-I{sysconfig.get_paths()['include']}", str(root / SOURCE), "-o", str(aside), "-lssl", "-lcrypto"),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        aside.replace(root / TARGET)  # a process that has the old one open keeps it
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"{SOURCE} is left out, TLS will be slower: {said[0] if said else error}", file=sys.stderr)
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        if self.target_name == "wheel" and build(Path(self.root)):
            build_data["artifacts"].append(TARGET)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


if __name__ == "__main__":
    sys.exit(0 if build(Path(__file__).parents[1]) else 1)
