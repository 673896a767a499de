"""The first stage as a folder: Debian by debootstrap, in which the stages' scripts run as they do under Docker.

A step runs in namespaces of its own for mounts and processes, so that nothing of it outlives it. Its steps run over one
another in the same folder, as each script empties its own output first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.image import machine

_NEEDED: Final = ("debootstrap", "unshare", "chroot", "mount")
_UNSHARE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_TRIES: Final = 3
"""Of debootstrap, which gives up with the first package that a mirror does not send at once."""
_SCRIPT: Final = """
set -eu
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot "$root" /usr/bin/env -i "$@"
"""


class CannotBuild(RuntimeError):
    """A step failed; the message has the end of its output."""


class CannotBuildHere(CannotBuild):
    """The machine cannot build the image without Docker; the message says why, and what to do."""


def check() -> None:
    """Raises CannotBuildHere if a chroot cannot be made here."""
    instead = "; with Docker: `docker build -f deploy/image/Dockerfile -t kube-cache .`"
    if os.geteuid() != 0:
        raise CannotBuildHere(f"building the image without Docker needs root, for its chroot{instead}")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise CannotBuildHere(
            f"building the image without Docker needs {', '.join(missing)}"
            f" (Debian: apt-get install debootstrap mount util-linux){instead}"
        )
    tried = subprocess.run(
        [*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise CannotBuildHere(
            f"building the image without Docker needs mounts, which this machine denies root: {tried.stderr.strip()}{instead}"
        )


class Chroot:
    def __init__(self, folder: Path, archives: machine.Archives, kept: Path) -> None:
        """kept: folder for what is kept between builds, such as downloaded wheels."""
        self.folder = folder
        self._archives = archives
        self._kept = kept

    def create(self, release: str) -> None:
        """Make it anew. Raises CannotBuild."""
        # apt verifies by the machine's own keys, as it does for the machine's own packages.
        secure = ["--include=ca-certificates"] if "https:" in self._archives.sources else []
        command = ["debootstrap", "--variant=minbase", *secure, release, str(self.folder), self._archives.mirror]
        for attempt in range(1, _TRIES + 1):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            try:
                _call(command, f"debootstrap of {release}")
                break
            except CannotBuild:
                if attempt == _TRIES:
                    raise
        apt = self.folder / "etc/apt"
        (apt / "sources.list").write_text(self._archives.sources)
        (apt / "apt.conf.d/90machine").write_text(self._archives.settings)
        for name in ("src", "out"):
            (self.folder / name).mkdir()
        (self.folder / "etc/resolv.conf").touch()
        (self.folder / "made-at").write_text(str(time.time_ns()))

    def made_at(self) -> str:
        """Tell one making of the folder from another."""
        return (self.folder / "made-at").read_text()

    def run(self, command: str, folder: str, caches: Sequence[str]) -> None:
        """Run a shell command in `folder`. Raises CannotBuild with the end of its output."""
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        variables |= machine.pip_settings()
        binds = []
        for name, path in machine.files(variables).items():
            if name != "HOME":
                inside = f"/run/machine/{name.lower()}"
                binds += [str(path), inside]
                variables[name] = inside
                self._place(inside, is_folder=path.is_dir())
        for cache in caches:
            kept = self._kept / cache.strip("/").replace("/", "_")
            kept.mkdir(parents=True, exist_ok=True)
            self._place(cache, is_folder=True)
            binds += [str(kept), cache]
        words = [f"{name}={value}" for name, value in variables.items()]
        words += ["sh", "-c", f"cd {folder} && {command}"]
        _call([*_UNSHARE, "sh", "-c", _SCRIPT, "sh", str(self.folder), *binds, "--", *words], command)

    def _place(self, path: str, *, is_folder: bool) -> None:
        """Make what is mounted over."""
        place = self.folder / path.lstrip("/")
        (place if is_folder else place.parent).mkdir(parents=True, exist_ok=True)
        if not is_folder:
            place.touch()


def _call(command: Sequence[str], what: str) -> None:
    with tempfile.TemporaryFile("w+") as log:
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if code:
            log.seek(0)
            end = "".join(log.readlines()[-30:])
            raise CannotBuild(f"`{what}` ended with exit code {code}; the end of its output:\n{end}")
