"""What the parts of the store share: where things are, the locks, the index, and what is being fetched right now.

Lock order, outermost first: the snapshots' lock (`mutation`), the claims, the index. The index's lock may be taken under
any other; nothing is fetched or read through while one of them is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kube_cache.errors import Cancelled, StoreConflict
from kube_cache.store.disk import Disk
from kube_cache.store.index import Index
from kube_cache.store.inotify import Watch
from kube_cache.store.layout import BUILDING, REMOVING, Layout
from kube_cache.store.settings import StoreSettings

_POLL_S = 0.05
_TRIES = 3
_LOCK_S = 60.0


class Core:
    def __init__(self, settings: StoreSettings, layout: Layout, disk: Disk, index: Index) -> None:
        self.settings = settings
        self.layout = layout
        self.disk = disk
        self.index = index
        self.watch = Watch(shards(layout), trust_s=settings.watch_trust_s)
        self.claims = Claims()
        self._lock = threading.RLock()
        self._depth = 0
        self._writers = 0
        self._writer_fd = -1
        self._writer_lock = threading.Lock()

    @contextlib.contextmanager
    def mutation(self) -> Iterator[None]:
        """Nobody else publishes or removes snapshots inside: neither a thread nor the CLI. Raises StoreConflict."""
        with self._lock:
            if self._depth:
                yield
                return
            fd = _open_lock(self.layout.lock)
            try:
                deadline = time.monotonic() + _LOCK_S
                while not _try_lock(fd):
                    if time.monotonic() > deadline:
                        raise StoreConflict(
                            f"another process has held {self.layout.lock} for {_LOCK_S:.0f} s; it is tried again"
                        )
                    time.sleep(_POLL_S)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def writing(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Be the one process that fetches; another (an agent that drains while its successor starts) is waited for."""
        while not self._writer_lock.acquire(timeout=_POLL_S):  # whoever has it may wait long for another process
            _stop_waiting_if(cancelled())
        try:
            if self._writers == 0:
                fd = _open_lock(self.layout.writer_lock)
                try:
                    while not _try_lock(fd):
                        _stop_waiting_if(cancelled())
                        time.sleep(_POLL_S)
                    # Whoever held it before is gone, and with it what it had reserved.
                    self.index.end_warms_but(os.getpid())
                except BaseException:
                    os.close(fd)
                    raise
                self._writer_fd = fd
            self._writers += 1
        finally:
            self._writer_lock.release()
        try:
            yield
        finally:
            with self._writer_lock:
                self._writers -= 1
                if self._writers == 0:
                    os.close(self._writer_fd)
                    self._writer_fd = -1

    @property
    def busy(self) -> bool:
        """Whether this process is fetching."""
        return self._writers > 0

    def is_fetching(self) -> bool:
        """Whether this process or another one is."""
        if self.busy:
            return True
        fd = _open_lock(self.layout.writer_lock)
        try:
            # Shared, and for an instant: who begins to fetch meanwhile tries again soon.
            return not _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def try_alone(self) -> int | None:
        """The writer's lock if nobody fetches, as a descriptor to close; for tidying what a fetch might be using."""
        if self.busy:
            return None
        fd = _open_lock(self.layout.writer_lock)
        for _ in range(_TRIES):  # a scrub may just be asking whether somebody fetches
            if _try_lock(fd):
                return fd
            time.sleep(_POLL_S)
        os.close(fd)
        return None

    def digests(self) -> list[str]:
        """Return the digests of the visible snapshots, least recently used first; one that the index lacks counts as oldest."""
        order = {digest: place for place, digest in enumerate(self.index.uses())}
        names = [name for name in os.listdir(self.layout.snapshots) if not name.startswith((BUILDING, REMOVING))]
        return sorted(names, key=lambda name: order.get(name, -1))

    def close(self) -> None:
        self.watch.close()
        self.index.close()


class Claims:
    """Which objects are being fetched, each by one attempt, and which are needed by one that is under way.

    Between processes the writer's lock says the same; so an object needs no lock file, nor a descriptor, of its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claimed: dict[str, str] = {}
        self._needed: Counter[str] = Counter()

    def take(self, names: Iterable[str], token: str) -> tuple[list[str], list[str]]:
        """(now ours, somebody else's)."""
        ours: list[str] = []
        theirs: list[str] = []
        with self._changed:
            for name in names:
                holder = self._claimed.setdefault(name, token)
                (ours if holder == token else theirs).append(name)
        return ours, theirs

    def give_back(self, names: Iterable[str], token: str) -> None:
        with self._changed:
            for name in names:
                if self._claimed.get(name) == token:
                    del self._claimed[name]
            self._changed.notify_all()

    def holds(self, name: str, token: str) -> bool:
        with self._changed:
            return self._claimed.get(name) == token

    def wait(self, seconds: float) -> None:
        """Until somebody gives something back."""
        with self._changed:
            self._changed.wait(seconds)

    @contextlib.contextmanager
    def needing(self, names: Iterable[str]) -> Iterator[None]:
        """These are not removed as no longer linked while a download counts on them."""
        names = list(names)
        with self._changed:
            self._needed.update(names)
        try:
            yield
        finally:
            with self._changed:
                for name in names:
                    if self._needed[name] <= 1:
                        del self._needed[name]
                    else:
                        self._needed[name] -= 1

    def is_needed(self, name: str) -> bool:
        with self._changed:
            return name in self._needed or name in self._claimed


def _stop_waiting_if(cancelled: bool) -> None:
    if cancelled:
        raise Cancelled("cancelled while another agent process on this disk was still fetching")


def shards(layout: Layout) -> list[Path]:
    return [layout.objects, *(layout.objects / f"{number:02x}" for number in range(256))]


def make_folders(layout: Layout, disk: Disk) -> None:
    """Those that are missing, durably."""
    missing = [folder for folder in (*layout.folders, *shards(layout)) if not folder.is_dir()]
    for folder in missing:
        disk.make_folder(folder)
    if missing:
        disk.sync_folder(layout.objects)
        disk.sync_folder(layout.root)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
