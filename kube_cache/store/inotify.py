"""Knows that nothing has changed a snapshot since it was last looked at, so that a look at 100,000 files costs nothing.

inotify on each folder of the snapshot, and on the folders of `objects/`, where the same files can be written by another
name. The kernel queues an event before the system call that caused it returns, so "no event" means "no write through these
folders". It is a licence to skip a look, never a proof of its own: what it cannot see (a write through a shared mapping
before the file is closed, or through a link outside the store) is bounded by `trust_s`, and by the scrub.
Where inotify is missing or its limits are reached, nothing is clean and every look is a full one.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

_EVENT = struct.Struct("iIII")
_MODIFY, _ATTRIB, _CLOSE_WRITE, _OVERFLOW, _IGNORED = 0x2, 0x4, 0x8, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW = 0x01000000, 0x02000000
_MOVE_SELF = 0x800
# moved from, moved to, created, deleted, deleted itself, moved itself
_NAMES = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | _MOVE_SELF
_SNAPSHOT = _MODIFY | _ATTRIB | _CLOSE_WRITE | _NAMES | _ONLYDIR | _DONT_FOLLOW
# Objects come and go by themselves; an engine may close what was renamed into place. Writes are what matters there.
_OBJECTS = _MODIFY | _ATTRIB | _MOVE_SELF | _ONLYDIR | _DONT_FOLLOW
MOST_FOLDERS = 4096
"""In one snapshot. A watch costs about 1 KiB of kernel memory, counted against fs.inotify.max_user_watches."""

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Thread-safe. Raises nothing: what cannot be watched is looked at."""

    def __init__(self, shards: Iterable[Path], *, trust_s: float) -> None:
        self._trust_s = trust_s
        self._lock = threading.Lock()
        self._owner: dict[int, str] = {}
        self._watches: dict[str, list[int]] = {}
        self._looks = 0
        self._armed: dict[str, tuple[int, float]] = {}
        self._clean: dict[str, float] = {}
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if trust_s > 0 else -1
        if self._fd >= 0 and not all(self._add(folder, _OBJECTS, "") for folder in shards):
            self.close()

    def arm(self, digest: str, folders: Iterable[Path] | None) -> int:
        """Watch these from now on, for the look that begins after this, whose number is returned. None: too many folders.

        Of looks at once only the one that armed last counts: what happened before that, it alone has seen for sure.
        """
        with self._lock:
            self._looks += 1
            self._disarm(digest)
            if self._fd < 0 or folders is None:
                return self._looks
            if not all(self._add(folder, _SNAPSHOT, digest) for folder in folders):
                self._disarm(digest)
                return self._looks
            self._drain()
            self._armed[digest] = (self._looks, time.monotonic())
            return self._looks

    def seen(self, digest: str, look: int, *, whole: bool) -> None:
        """What the look found that followed `arm`."""
        with self._lock:
            if self._fd >= 0:
                self._drain()
            number, since = self._armed.get(digest, (0, 0.0))
            if number == look:
                del self._armed[digest]
                if whole:
                    self._clean[digest] = since
            if not whole:
                self._clean.pop(digest, None)

    def is_clean(self, digest: str) -> bool:
        with self._lock:
            if self._fd < 0:
                return False
            self._drain()
            since = self._clean.get(digest)
            return since is not None and time.monotonic() - since < self._trust_s

    def disarm(self, digest: str) -> None:
        with self._lock:
            self._disarm(digest)

    def _add(self, folder: Path, mask: int, owner: str) -> bool:
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(folder), mask)
        if number < 0:
            return False
        self._owner[number] = owner
        if owner:
            self._watches.setdefault(owner, []).append(number)
        return True

    def _disarm(self, digest: str) -> None:
        self._clean.pop(digest, None)
        self._armed.pop(digest, None)
        for number in self._watches.pop(digest, ()):
            if self._owner.pop(number, None) is not None and self._fd >= 0:
                _libc.inotify_rm_watch(self._fd, number)

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            place = 0
            while place < len(data):
                number, mask, _cookie, length = _EVENT.unpack_from(data, place)
                place += _EVENT.size + length
                owner = self._owner.get(number)
                if owner == "" and mask & (_IGNORED | _MOVE_SELF):
                    self._close()  # a folder of objects went away: what is made in its place, nobody watches
                    return
                if mask & _IGNORED:
                    self._owner.pop(number, None)
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
