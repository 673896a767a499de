"""Process 1 of a node's namespaces: lays out what a machine has after its boot, then collects ended processes.

A program of its own (standard library only), because a PID namespace ends with its first process: killing this one is
pulling the plug of the node, and takes containers, shims, kubelet, mounts and interfaces along. What survives is what a
real machine keeps: the files below the folder that is given, and the disk for the cache.

Arguments, as one JSON object: folder (of the node's files), disk (image of the cache's disk; "" = not mounted yet),
addresses (of the node; beyond 127.0.0.1).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CACHE_ROOT = "/var/lib/kube-cache"

# The kubelet sets these for the whole machine, with no option to leave them; it reads and writes copies instead.
_TUNED = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def lay_out(folder: Path, disk: str, addresses: list[str]) -> None:
    # Shared, as systemd does: a disk that is mounted late is seen by containers that ask for HostToContainer.
    mount("--make-rshared", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "node", "/run")
    for name in ("var/lib", "var/log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        mount("--bind", str(folder / name), f"/{name}")
    Path(CACHE_ROOT).mkdir(exist_ok=True)
    if disk:
        mount("-o", "loop", disk, CACHE_ROOT)
    copies = Path("/run/sysctl")
    for name in _TUNED:
        copy = copies / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"/proc/sys/{name}", copy)
        mount("--bind", str(copy), f"/proc/sys/{name}")
    for words in (["link", "set", "lo", "up"], *(["address", "add", f"{each}/32", "dev", "lo"] for each in addresses)):
        subprocess.run(["ip", *words], check=True)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    lay_out(Path(arguments["folder"]), arguments["disk"], arguments["addresses"])
    print("booted", flush=True)
    # Children of ended shims and of `nsenter` become children of this process. One of its own never ends, so that
    # waiting never fails.
    if os.fork() == 0:
        while True:
            signal.pause()
    while True:
        os.wait()


if __name__ == "__main__":
    main()
