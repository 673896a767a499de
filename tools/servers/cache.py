"""Finds servers that are built already: in the cache, or on PATH.

The cache lies outside the checkout and is keyed by content, so that a second checkout with the same pins builds
nothing, and an edited pin never gets a stale binary. Layout: `<cache>/<name>/<version>-<hash of all inputs>/<go
version>/<name>`. Never deletes: old versions stay until a person removes the folder.
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

from tools import caches
from tools.servers.pins import WRAPPERS, Pin

GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false"}
"""Gives static binaries that are equal on every machine: without paths and commit of this checkout."""

_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)(?![\d.])([-+.\w]*)")


def root() -> Path:
    return caches.folder("servers", "KUBE_CACHE_SERVERS")


def source_key(pin: Pin) -> str:
    """Hash everything that the binary depends on, except the Go release, which is a folder of its own."""
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
    """Return a binary of exactly these sources; the newest if several Go releases built it."""
    binaries = sorted(folder(pin).glob(f"go*/{pin.name}"), key=lambda path: path.stat().st_mtime)
    return binaries[-1] if binaries else None


def fits(reported: str, pinned: str) -> bool:
    """Same minor release and not older, as servers promise compatibility. A `-suffix` is another program."""
    match = _VERSION.search(reported)
    if match is None or match[4]:
        return False
    major, minor, patch = (int(part) for part in match.groups()[:3])
    pinned_major, pinned_minor, pinned_patch = (int(part) for part in pinned.split("."))
    return (major, minor) == (pinned_major, pinned_minor) and patch >= pinned_patch


def reported_version(binary: Path, pin: Pin) -> str:
    """Return what the binary prints about its version; "" if it fails."""
    try:
        result = subprocess.run(
            [str(binary), *pin.version_args], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout + result.stderr if result.returncode == 0 else ""


@lru_cache(maxsize=64)
def on_path(pin_name: str, search: str, path_name: str, version: str) -> Path | None:
    from tools.servers.pins import PINS

    path = shutil.which(path_name or pin_name, path=search)
    if path and fits(reported_version(Path(path), PINS[pin_name]), version):
        return Path(path)
    return None


def locate(pin: Pin) -> Path | None:
    """Return a built server: from the cache, which is exact and needs no process, or from PATH if its version fits."""
    return cached(pin) or on_path(pin.name, os.environ.get("PATH", os.defpath), pin.path_name, pin.version)
