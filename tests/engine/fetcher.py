"""An engine with what it fetched, and the check that it leaves no thread and no descriptor behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress
from kube_cache.engine.engine import Engine

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}


class Fetcher:
    """An engine, the objects that it fetched and the progress that it reported."""

    def __init__(self, engine: Engine, folder: Path, origins: Any) -> None:
        """origins: over which the engine is; closed with it."""
        self.engine = engine
        self.folder = folder
        self.origins = origins
        self.done: dict[str, FetchedObject] = {}
        self.progress: list[FetchProgress] = []

    def jobs(self, objects: Sequence[RemoteObject], prefix: str = "") -> list[FetchJob]:
        """Make jobs with files named by `prefix` and their place, so that two calls at once have different prefixes."""
        return [
            FetchJob(remote, self.folder / f"{prefix}{number}.part", self.folder / f"{prefix}{number}.journal")
            for number, remote in enumerate(objects)
        ]

    def fetch(
        self,
        objects: Sequence[RemoteObject],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
        max_bytes_per_s: int = 0,
    ) -> None:
        self.engine.fetch(
            self.jobs(objects),
            on_object=lambda done: self.done.__setitem__(done.job.object.key, done),
            progress=self.progress.append,
            cancelled=cancelled,
            priority=priority,
            max_bytes_per_s=max_bytes_per_s,
        )

    def content(self, key: str) -> bytes:
        return self.done[key].job.part_path.read_bytes()

    def close(self) -> None:
        self.engine.close()
        self.origins.close()


class Watched:
    """The servers whose connections a check for leaks looks at, besides all descriptors that are no connections.

    Other connections of the process belong to clients that outlive the test (of Kubernetes, of Temporal), and come and
    go as they like.
    """

    def __init__(self) -> None:
        self._ports: set[int] = set()

    def add(self, endpoint: str) -> None:
        port = urlsplit(endpoint).port
        assert port is not None, endpoint
        self._ports.add(port)

    def of(self, descriptors: Collection[Descriptor]) -> list[str]:
        return [each.name for each in descriptors if each.ports is None or not self._ports.isdisjoint(each.ports)]


class Descriptor(NamedTuple):
    name: str
    ports: tuple[int, ...] | None
    """Of a socket that the kernel lists: its own and its peer's, where it is of TCP. None: another descriptor."""


@contextmanager
def no_leak() -> Iterator[Watched]:
    """Check that there are no more threads of the engine and open descriptors after than before. See `Watched`."""
    watched = Watched()
    before = _descriptors()
    yield watched
    deadline = time.monotonic() + 60
    while (left := _left_over(watched, before)) and time.monotonic() < deadline:
        time.sleep(0.02)  # a closing socket takes a moment to be seen
        gc.collect()  # urllib3 drops a connection whose head it cannot parse, and only the collector closes that
    assert not left, (left, watched.of(before))


def _left_over(watched: Watched, before: Collection[Descriptor]) -> list[str]:
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]
    # Counted, not compared: the test's own client may have replaced a connection.
    descriptors = watched.of(_descriptors())
    return threads + (descriptors if len(descriptors) > len(watched.of(before)) else [])


def _descriptors() -> list[Descriptor]:
    sockets = _sockets()
    found: list[Descriptor] = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue  # the descriptor that listed the folder
        ports = sockets.get(target)  # none of a socket whose connection was reset: the kernel lists it no more
        found.append(Descriptor(f"{fd.name}: {target} {ports or ''}", ports))
    return found


def _sockets() -> dict[str, tuple[int, ...]]:
    """The ports of the machine's sockets, by the link that a descriptor of theirs shows."""
    found: dict[str, tuple[int, ...]] = {}
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("netlink", 9), ("unix", 6)):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            ports = (int(address.rpartition(":")[2], 16) for address in fields[1:3]) if table.startswith("tcp") else ()
            found[f"socket:[{fields[column]}]"] = tuple(ports)
    return found
