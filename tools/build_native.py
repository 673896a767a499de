"""Builds the package's native modules, as a build hook of hatchling or by `python tools/build_native.py`.

`_crc.c` and `_receive.c` are needed; they take a C compiler and Python's headers. `_tls.c` also takes OpenSSL's headers
(Debian: libssl-dev); without them the build prints a line and goes on, and the engine uses Python's `ssl`, which is
slower. `_check.c` takes POSIX threads; without it the store checks its files from Python.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand in an environment without it
    BuildHookInterface = object  # type: ignore[assignment, misc]


class Native(NamedTuple):  # no dataclass: hatchling loads this file without making it a module, and that needs one
    """A module of one C file: `stem`.c is built to `stem`.abi3.so. without: cost of its lack; empty if it is needed."""

    stem: str
    libraries: tuple[str, ...] = ()
    without: str = ""

    @property
    def source(self) -> str:
        return f"{self.stem}.c"

    @property
    def target(self) -> str:
        return f"{self.stem}.abi3.so"


MODULES = (
    Native("kube_cache/dataset/_crc"),
    Native("kube_cache/engine/_receive"),
    Native("kube_cache/engine/_tls", ("ssl", "crypto"), without="TLS will be slower"),
    Native("kube_cache/store/_check", without="checks of snapshots will be slower"),
)


def build(root: Path) -> list[Native]:
    """Build all modules; return those that were built. Raises SystemExit if a needed one cannot be built."""
    return [module for module in MODULES if _build(root, module)]


def _build(root: Path, module: Native) -> bool:
    """Build one module. False if it cannot be built here and is not needed; the reason is printed then."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    temporary = root / f"{module.target}.{os.getpid()}"
    command = [
        *compiler,
        *(
            "-O2",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Wno-cast-function-type",
            "-shared",
            "-fPIC",
        ),
        *(f"-I{sysconfig.get_paths()['include']}", str(root / module.source), "-o", str(temporary)),
        *(f"-l{name}" for name in module.libraries),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        temporary.replace(root / module.target)  # a process that has the old file open keeps it
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = lines[0] if lines else str(error)
        if not module.without:
            raise SystemExit(
                f"error: {module.source} cannot be built: {reason}; it needs a C compiler and Python's headers"
                " (Debian: gcc python3-dev)"
            ) from error
        print(f"{module.source} is left out, {module.without}: {reason}", file=sys.stderr)
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        if self.target_name == "wheel":
            build_data["artifacts"] += [module.target for module in build(Path(self.root))]
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


if __name__ == "__main__":
    build(Path(__file__).parents[1])
