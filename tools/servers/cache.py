"""Where built servers are kept, and how one is found without building.

The cache lies outside the checkout and is keyed by content: a second checkout with the same pins builds nothing, and an
edited pin never picks up a stale binary. Layout: `<cache>/<name>/<version>-<hash of all inputs>/<go version>/<name>`.
Nothing here deletes: old versions stay until a person removes the folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from tools.servers.pins import WRAPPERS, Pin

GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false"}
"""Static binaries, the same on each machine: no paths and no commit of this checkout in them."""

_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)(?![\d.])([-+.\w]*)")


def root() -> Path:
    if explicit := os.environ.get("KUBE_CACHE_SERVERS"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-cache" / "servers"


def source_key(pin: Pin) -> str:
    """Hash of everything that decides the binary, except the Go release, which is a folder of its own."""
    digest = hashlib.sha256()
    parts = [pin.name, pin.version, pin.package, pin.ldflags, pin.tags, platform.system(), platform.machine()]
    parts += [f"{key}={value}" for key, value in sorted(GO_ENVIRONMENT.items())]
    digest.update("\0".join(parts).encode())
    if pin.wrapper:
        for path in sorted((WRAPPERS / pin.wrapper).iterdir()):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def folder(pin: Pin) -> Path:
    return root() / pin.name / f"{pin.version}-{source_key(pin)}"


def cached(pin: Pin) -> Path | None:
    """A binary of these very sources; the newest when several Go releases built it."""
    found = sorted(folder(pin).glob(f"go*/{pin.name}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def fits(reported: str, wanted: str) -> bool:
    """Same minor release and not older, as servers promise compatibility. A `-suffix` is another program."""
    match = _VERSION.search(reported)
    if match is None or match[4]:
        return False
    have = tuple(int(part) for part in match.groups()[:3])
    want = tuple(int(part) for part in wanted.split("."))
    return have[:2] == want[:2] and have[2] >= want[2]


def reported_version(binary: Path, pin: Pin) -> str:
    """What the binary prints about itself; empty when it cannot even do that."""
    try:
        done = subprocess.run([str(binary), *pin.version_args], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


@lru_cache(maxsize=64)
def on_path(pin_name: str, search: str, path_name: str, version: str) -> Path | None:
    from tools.servers.pins import PINS

    found = shutil.which(path_name or pin_name, path=search)
    if found and fits(reported_version(Path(found), PINS[pin_name]), version):
        return Path(found)
    return None


def locate(pin: Pin) -> Path | None:
    """Cache first: it is exact and costs no process. Then the user's own, if its version fits."""
    return cached(pin) or on_path(pin.name, os.environ.get("PATH", os.defpath), pin.path_name, pin.version)
