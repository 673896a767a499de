"""Learns from inotify that nothing has changed a snapshot since its last check, so that the next check costs nothing.

Watches each folder of the snapshot, and the folders of `objects/`, where the same files can be written by another name.
The kernel queues an event before the system call that caused it returns, so "no event" means "no write through these
folders". Some writes cause no event: through a shared mapping before the file is closed, or through a link outside the
store. The next check after `trust_s`, or the scrub, finds those. Where inotify is missing or its limits are reached, no
snapshot is clean and every check is a full one.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_EVENT = struct.Struct("iIII")
_MODIFY, _ATTRIB, _CLOSE_WRITE, _OVERFLOW, _IGNORED = 0x2, 0x4, 0x8, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW = 0x01000000, 0x02000000
_MOVE_SELF = 0x800
# moved from, moved to, created, deleted, deleted itself, moved itself
_NAMES = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | _MOVE_SELF
_SNAPSHOT = _MODIFY | _ATTRIB | _CLOSE_WRITE | _NAMES | _ONLYDIR | _DONT_FOLLOW
# Objects come and go, and an engine may close a file after its rename into place: only writes matter here.
_OBJECTS = _MODIFY | _ATTRIB | _MOVE_SELF | _ONLYDIR | _DONT_FOLLOW
MAX_FOLDERS = 4096
"""Folders of a snapshot that are watched at most: a watch costs about 1 KiB of kernel memory and counts against
fs.inotify.max_user_watches."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Armed(NamedTuple):
    """A check that is under way."""

    number: int
    since: float
    """Monotonic time at which it began."""


class Watch:
    """Thread-safe. Raises nothing: a snapshot that cannot be watched is never clean."""

    def __init__(self, shards: Iterable[Path], *, trust_s: float) -> None:
        self._trust_s = trust_s
        self._lock = threading.Lock()
        self._owner: dict[int, str] = {}
        """Watch descriptor -> digest; "" for a folder of objects."""
        self._watches: dict[str, list[int]] = {}
        """Digest -> watch descriptors."""
        self._checks = 0
        self._armed: dict[str, _Armed] = {}
        """Digest -> the check that is under way."""
        self._clean: dict[str, float] = {}
        """Digest -> monotonic time at which the check began that found it complete."""
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if trust_s > 0 else -1
        if self._fd >= 0 and not all(self._add(folder, _OBJECTS, "") for folder in shards):
            self.close()

    def arm(self, digest: str, folders: Iterable[Path] | None) -> int:
        """Watch the folders from now on; call before a check begins. Returns the number of the check.

        Of concurrent checks only the last one counts, because only that one began after every earlier event.
        folders: None if they are too many to watch.
        """
        with self._lock:
            self._checks += 1
            self._disarm(digest)
            if self._fd < 0 or folders is None:
                return self._checks
            if not all(self._add(folder, _SNAPSHOT, digest) for folder in folders):
                self._disarm(digest)
                return self._checks
            self._drain()
            self._armed[digest] = _Armed(self._checks, time.monotonic())
            return self._checks

    def checked(self, digest: str, number: int, *, complete: bool) -> None:
        """Record the result of the check that got this number from `arm`."""
        with self._lock:
            if self._fd >= 0:
                self._drain()
            armed = self._armed.get(digest)
            if armed is not None and armed.number == number:
                del self._armed[digest]
                if complete:
                    self._clean[digest] = armed.since
            if not complete:
                self._clean.pop(digest, None)

    def is_clean(self, digest: str) -> bool:
        """Check that the snapshot was complete less than `trust_s` ago and no event came since."""
        with self._lock:
            if self._fd < 0:
                return False
            self._drain()
            since = self._clean.get(digest)
            return since is not None and time.monotonic() - since < self._trust_s

    def disarm(self, digest: str) -> None:
        """Stop watching the snapshot; it is not clean until the next check."""
        with self._lock:
            self._disarm(digest)

    def _add(self, folder: Path, mask: int, owner: str) -> bool:
        watch: int = _libc.inotify_add_watch(self._fd, os.fsencode(folder), mask)
        if watch < 0:
            return False
        self._owner[watch] = owner
        if owner:
            self._watches.setdefault(owner, []).append(watch)
        return True

    def _disarm(self, digest: str) -> None:
        self._clean.pop(digest, None)
        self._armed.pop(digest, None)
        for watch in self._watches.pop(digest, ()):
            if self._owner.pop(watch, None) is not None and self._fd >= 0:
                _libc.inotify_rm_watch(self._fd, watch)

    def _drain(self) -> None:
        """Read the queued events; each takes the trust from its snapshot, one below `objects/` from all."""
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            place = 0
            while place < len(data):
                watch, mask, _cookie, length = _EVENT.unpack_from(data, place)
                place += _EVENT.size + length
                owner = self._owner.get(watch)
                if owner == "" and mask & (_IGNORED | _MOVE_SELF):
                    self._close()  # a folder of objects went away, and nobody watches the one that takes its place
                    return
                if mask & _IGNORED:
                    self._owner.pop(watch, None)
                if mask & _OVERFLOW or owner == "":
                    self._clean.clear()
                    self._armed.clear()
                elif owner is not None:
                    self._clean.pop(owner, None)
                    self._armed.pop(owner, None)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._clean.clear()
        self._armed.clear()
        self._owner.clear()
        self._watches.clear()
