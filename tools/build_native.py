"""Builds the package's native modules, as a build hook of hatchling or by `python tools/build_native.py`.

`_crc.c` and `_receive.c` are needed; they take a C compiler and Python's headers. `_tls.c` also takes OpenSSL's headers
(Debian: libssl-dev); without them the build prints a line and goes on, and the engine uses Python's `ssl`, which is
slower. `_ed25519.c` and `_x509.c` take them as well; without them nodes do not feed each other, or need certificates of
others. `_check.c` takes POSIX threads; without it the store checks its files from Python.

KUBE_CACHE_NATIVES says what a wheel must have: `all` (what cannot be built ends the build; the image), `portable` (all
but those of OpenSSL, which a laptop may lack), `none` (a wheel for any machine: the command line without `fetch`).
Without it a wheel has what can be built, which without a compiler is nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
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
    Native("kube_cache/peers/_ed25519", ("crypto",), without="nodes will not feed each other"),
    Native("kube_cache/peers/_x509", ("crypto",), without="nodes will get no certificates from the operator"),
    Native("kube_cache/store/_check", without="checks of snapshots will be slower"),
)


def build(root: Path, modules: tuple[Native, ...] = MODULES) -> list[Native]:
    """Build the modules; return those that were built. Raises SystemExit if a needed one cannot be built."""
    return [module for module in modules if _build(root, module)]


def _build(root: Path, module: Native) -> bool:
    """Build one module. False if it cannot be built here and is not needed; the reason is printed then."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    temporary = root / f"{module.target}.{os.getpid()}"
    command = [
        *compiler,
        *(
            "-O2",
            "-D_FORTIFY_SOURCE=2",
            "-fstack-protector-strong",
            "-Wl,-z,relro,-z,now",
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


def for_wheel(root: Path, wanted: str) -> list[Native]:
    """Build what a wheel is to have; see the module. Raises SystemExit."""
    match wanted:
        case "none":
            return []
        case "portable":
            return build(root, tuple(module for module in MODULES if not module.libraries))
        case "all":
            return build(root, tuple(module._replace(without="") for module in MODULES))
        case "":
            try:
                return build(root)
            except SystemExit as error:
                print(
                    f"{error}\nthe wheel has no natives: its command line has no fetch, agent or store warm",
                    file=sys.stderr,
                )
                return []
        case _:
            raise SystemExit(f"error: KUBE_CACHE_NATIVES={wanted}: it is all, portable, none or unset")


def platform_tag(paths: Iterable[Path]) -> str:
    """Return the tag of the oldest glibc that has every symbol of the files, as PEP 600 names it."""
    found = {match for path in paths for match in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", path.read_bytes())}
    major, minor = max((int(major), int(minor)) for major, minor in found)
    return f"manylinux_{major}_{minor}_{platform.machine()}"


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        wanted = "" if version == "editable" else os.environ.get("KUBE_CACHE_NATIVES", "")
        # A checkout to work in needs what is needed.
        built = build(Path(self.root)) if version == "editable" else for_wheel(Path(self.root), wanted)
        build_data["artifacts"] += [module.target for module in built]
        build_data["pure_python"] = not built
        if wanted == "portable":
            build_data["tag"] = f"cp311-abi3-{platform_tag(Path(self.root) / module.target for module in built)}"
        else:
            build_data["infer_tag"] = bool(built)


if __name__ == "__main__":
    build(Path(__file__).parents[1])
