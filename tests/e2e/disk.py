"""A node whose cache is a small file system of its own, so that what fills, fails and vanishes is real. Needs root."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kube_cache import names
from tests.e2e.promises import condition_says, temporal
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.pods import Pods
from tools.stack.product import Part
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true

MIN_FREE = 0.20


class DiskNode:
    """One node with a tmpfs; Pods get there by `spec`, a node selector."""

    def __init__(self, stack: Stack, options: str, env: dict[str, str]) -> None:
        self._stack = stack
        self._options = options
        self.name = stack.add_node(with_agent=False)
        self.root = stack.cache_root(self.name)
        self.root.mkdir()
        self._mount()
        stack.start_agent(self.name, {"KUBE_CACHE_STORE__MIN_FREE": str(MIN_FREE), **env})

    @property
    def spec(self) -> dict[str, Any]:
        return {"nodeSelector": {"kubernetes.io/hostname": self.name}}

    @property
    def preferred(self) -> dict[str, Any]:
        """Here if it can be."""
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.name]}
        term = {"weight": 100, "preference": {"matchExpressions": [here]}}
        return {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}

    @property
    def agent(self) -> Part:
        return self._stack.agents[self.name]

    @property
    def cache_id(self) -> str:
        return (self.root / "cache-id").read_text().strip()

    def _mount(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", self._options, "none", str(self.root)], check=True)

    def wipe(self) -> None:
        """Another disk under the same path: as after a repair, or of a machine whose NVMe does not outlive it."""
        subprocess.run(["umount", "-l", str(self.root)], check=True)
        self._mount()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Read-only for opens by path (bind mount): the kernel refuses a remount while a file is open for writing."""
        root = str(self.root)
        subprocess.run(["mount", "--bind", root, root], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
            yield
        finally:
            subprocess.run(["umount", root], check=True)

    @contextmanager
    def forbidden(self, folder: str) -> Iterator[None]:
        """Nobody may make or remove anything in it, not even root."""
        path = str(self.root / folder)
        subprocess.run(["chattr", "+i", path], check=True)
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", path], check=True)

    @contextmanager
    def filled(self, leave: int = 0) -> Iterator[None]:
        """By somebody else, up to the last block but `leave` bytes."""
        hog = self.root / "hog"
        try:
            with hog.open("wb", buffering=0) as file:
                free = os.statvfs(self.root)
                os.posix_fallocate(file.fileno(), 0, max(4096, free.f_bavail * free.f_frsize - leave))
            yield
        finally:
            hog.unlink()

    @contextmanager
    def without_inodes(self) -> Iterator[None]:
        litter = self.root / "litter"
        litter.mkdir()
        try:
            for number in range(os.statvfs(self.root).f_favail):
                (litter / str(number)).touch()
            yield
        finally:
            for path in litter.iterdir():
                path.unlink()
            litter.rmdir()

    def pins(self) -> set[tuple[str, str]]:
        """(digest, owner), of the links of the Pods."""
        while True:
            try:
                links = [path for path in (self.root / "pods").glob("*/*") if path.is_symlink()]
                return {(path.readlink().parent.name, f"pod/{path.parent.name}") for path in links}
            except FileNotFoundError:  # a folder was removed meanwhile
                continue

    def age_pins(self) -> None:
        """As if they had been made an hour ago: the reconcile leaves young ones alone."""
        for folder in (self.root / "pods").iterdir():
            os.utime(folder, (0, time.time() - 3600))

    def unpinned(self, uid: str, timeout_s: float = 90) -> None:
        true(lambda: not any(owner == f"pod/{uid}" for _, owner in self.pins()), f"no pin of {uid} is left", timeout_s)

    def store(self, *words: str, code: int = 0) -> str:
        """`kube-cache store` at a shell on this node."""
        return store(self.agent.environment, *words, code=code)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the agent's log."""
        lines = (line for line in self.agent.log.read_text().splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    def remove(self) -> None:
        self._stack.remove_node(self.name)
        subprocess.run(["umount", "-l", str(self.root)], check=True)


def store(env: dict[str, str], *words: str, code: int = 0) -> str:
    """The command line of the store, wherever the environment points it; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "store", *words],
        env=env, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout or done.stderr


class LeastFree:
    """Samples a file system while the block runs: the least share that was free."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="statfs", daemon=True)
        self.share = 1.0
        self.samples = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            found = os.statvfs(self._path)
            self.share = min(self.share, found.f_bavail / found.f_blocks)
            self.samples += 1


def waits_for_disk(pods: Pods, name: str, why: str = "InsufficientDisk") -> str:
    """Wait until the Pod says that a disk refused it for that reason; the message."""
    return condition_says(pods, name, "WaitingForDisk", why)


def says(pods: Pods, name: str, *words: str) -> str:
    """Wait until the Pod's condition has one of these; the whole message."""

    def found(pod: dict[str, Any]) -> bool:
        return any(each in kubernetes.condition(pod).get("message", "") for each in words)

    return str(kubernetes.condition(pods.wait(name, found, f"says one of {words}"))["message"])


def digest_of(pods: Pods, name: str) -> str:
    """Of the snapshot that it was released with."""
    return str(pods.get(name)["metadata"]["annotations"][names.SNAPSHOT_ANNOTATION])


def flip(path: Path) -> None:
    """One bit, as ill memory or an ill disk does it: no time stamp tells. On tmpfs a shared mapping does that."""
    before = path.stat()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[len(view) // 2] ^= 1
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns), "it was not silent"


def reconcile(stack: Stack) -> None:
    """Now; returns when the run that was asked for may be under way."""
    temporal(stack, "schedule", "trigger", "--schedule-id", names.RECONCILE_SCHEDULE, "--overlap-policy", "BufferOne")
