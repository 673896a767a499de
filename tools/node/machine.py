"""The machine below a node: namespaces, cgroups and a disk that can be booted, killed and booted again.

Mount, PID and network namespaces of its own keep a node away from the rest of the machine: default paths, default
ports and interfaces collide with nobody's, and all mounts, interfaces, routes and processes go with the first process
(`init.py`). Two things are not in a namespace and are removed by name: the folder in each cgroup hierarchy, and the
image of the disk, whose loop device the kernel frees with the last mount.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tools.node.init import CACHE_ROOT
from tools.stack import environment, waiting
from tools.stack.processes import Process, Processes, StackError

CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_PREFIX = "kube-cache-node-"
_BOOT_S = 60
_DEBIAN = {
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
}
# What a node does with the kernel, each once, and gone with the namespaces.
_PROBE = """
mkdir lower upper work merged disk
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
truncate -s 4M image
mkfs.ext4 -q image
mount -o loop image disk
ip link add probe0 type veth peer name probe1
"""


def missing() -> str:
    """Say why no node can run on this machine, and what helps; "" if one can."""
    if os.geteuid() != 0:
        return "a real node needs root; run `make test-node` as root"
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if packages := sorted({package for tool, package in _DEBIAN.items() if shutil.which(tool, path=path) is None}):
        return f"a real node needs `apt-get install {' '.join(packages)}`, then `make test-node`"
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "sh", "-exc", _PROBE]
        tried = subprocess.run(
            command, cwd=folder, env={"PATH": path}, capture_output=True, text=True, check=False, timeout=60
        )
    if tried.returncode != 0:
        return f"a real node needs namespaces, overlays, loop devices and veth pairs, and here: {tried.stderr.strip()}"
    if not _hierarchies():
        return f"a real node needs a cgroup hierarchy that can be written, and {CGROUPS} has none"
    return ""


class Machine:
    """folder: emptied by its owner; holds the files that survive a boot. disk_mib: size of the cache's disk."""

    def __init__(self, processes: Processes, folder: Path, *, disk_mib: int, addresses: Sequence[str]) -> None:
        self._processes = processes
        self.folder = folder
        self.addresses = list(addresses)
        self.folder.mkdir(parents=True)
        self.cgroup = f"{_CGROUP_PREFIX}{folder.parent.name}.{folder.name}"
        self.disk = folder / "disk.img"
        with self.disk.open("wb") as image:
            image.truncate(disk_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(self.disk)], check=True, env=_environment(folder))
        self._init: Process | None = None
        self.pid = 0
        """Of the namespaces' first process, as this machine counts."""

    @property
    def running(self) -> bool:
        return self._init is not None and self._init.running

    def boot(self, *, with_disk: bool = True) -> None:
        """with_disk: False for a disk that is mounted late, by `mount_disk`."""
        _sweep_cgroups()
        _make_cgroup(self.cgroup)
        arguments = {
            "folder": str(self.folder),
            "disk": str(self.disk) if with_disk else "",
            "addresses": self.addresses,
        }
        unshare = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "--"]
        init = [sys.executable, "-I", "-S", str(Path(__file__).with_name("init.py")), json.dumps(arguments)]
        process = self._processes.spawn("node-init", [*unshare, *init], _environment(self.folder), Path("/"))
        process.wait_until(lambda: "booted" in process.output(), "the node has booted", _BOOT_S)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.pid = int(children[0])
        self._init = process

    def kill(self) -> None:
        """Pull the plug: every process of the node ends at once, and its mounts and interfaces go."""
        if self._init is None:
            return
        self._init.kill()
        self._init = None
        # Processes die in the kernel's own time, and their cgroups do not go with them, as they do at a real boot.
        waiting.true(self._cgroup_is_empty, "the node's processes have ended", 60)
        _remove_cgroup(self.cgroup)

    def close(self) -> None:
        """Kill the node, and remove what no namespace holds."""
        self.kill()
        _remove_cgroup(self.cgroup)

    def path(self, inside: str | Path) -> Path:
        """Return a path of the node as this machine's processes see it."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def spawn(self, name: str, argv: Sequence[str | Path], *, path: Sequence[Path] = ()) -> Process:
        """Start a process of the node. path: folders where it looks for programs first."""
        return self._processes.spawn(name, self._inside(argv), _environment(self.folder, path), Path("/"))

    def run(self, *argv: str | Path, timeout_s: float = 120) -> str:
        """Run a command on the node; its output. Raises StackError."""
        ran = subprocess.run(
            self._inside(argv),
            env=_environment(self.folder),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if ran.returncode != 0:
            raise StackError(f"on the node: {' '.join(map(str, argv))}: {(ran.stderr or ran.stdout).strip()}")
        return ran.stdout

    def mount_disk(self) -> None:
        self.run("mount", "-o", "loop", str(self.disk), CACHE_ROOT)

    def _inside(self, argv: Sequence[str | Path]) -> list[str]:
        namespaces = ["--mount", "--pid", "--net", "--wd=/"]
        return ["nsenter", f"--target={self.pid}", *namespaces, "--", *(str(word) for word in argv)]

    def _cgroup_is_empty(self) -> bool:
        return not any(
            procs.read_text().strip()
            for hierarchy in _hierarchies()
            for procs in (hierarchy / self.cgroup).rglob("cgroup.procs")
        )


def _environment(home: Path, path: Sequence[Path] = ()) -> dict[str, str]:
    clean = environment.clean(home)
    folders = [*map(str, path), clean.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    return {**clean, "PATH": ":".join(folders)}


def _hierarchies() -> list[Path]:
    """Return the folders of the cgroup hierarchies: one for each controller (v1), or one for all (v2)."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(words[1]) for words in mounts if words[2] in ("cgroup", "cgroup2") and os.access(words[1], os.W_OK)]


def _make_cgroup(name: str) -> None:
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: empty in a new folder, and then nothing may run in it
            if (folder / setting).exists() and not (folder / setting).read_text().strip():
                (folder / setting).write_text((hierarchy / setting).read_text())


def _remove_cgroup(name: str) -> None:
    """Remove the folders, deepest first."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        if top.is_dir():
            folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
            for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
                with suppress(FileNotFoundError):
                    waiting.true(partial(_removed, folder), f"{folder} is empty", 30)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _sweep_cgroups() -> None:
    """Remove what nodes of killed runs left: those whose stack's folder is gone, which its lock protects."""
    for hierarchy in _hierarchies():
        for folder in hierarchy.glob(f"{_CGROUP_PREFIX}*"):
            stack = folder.name.removeprefix(_CGROUP_PREFIX).rpartition(".")[0]
            if not (Path(tempfile.gettempdir()) / stack).exists():
                _remove_cgroup(folder.name)
