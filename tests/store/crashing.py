"""Disks that die before their n-th change: one is killed, one loses power and forgets what was not synced."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kube_cache.store.beneath import StorePath
from kube_cache.store.disk import Disk

SURVIVED, CUT = 7, 8


class Mortal(Disk):
    """Dies by `end` before its n-th change."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at
        self.done = 0

    def tick(self) -> None:
        self.done += 1
        self._left -= 1
        if self._left == 0:
            self.end()

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def make_folder(self, path: StorePath) -> None:
        self.tick()
        super().make_folder(path)

    def write(self, path: StorePath, chunks: Iterable[bytes]) -> None:
        def ticking() -> Iterable[bytes]:
            for chunk in chunks:
                self.tick()
                yield chunk

        super().write(path, ticking())

    def link(self, source: StorePath, target: StorePath) -> None:
        self.tick()
        super().link(source, target)

    def symlink(self, content: str, path: StorePath) -> None:
        self.tick()
        super().symlink(content, path)

    def set_link_time(self, path: StorePath, ns: int) -> None:
        self.tick()
        super().set_link_time(path, ns)

    def rename(self, source: StorePath, target: StorePath) -> None:
        self.tick()
        super().rename(source, target)

    def unlink(self, path: StorePath) -> None:
        self.tick()
        super().unlink(path)

    def remove_folder(self, path: StorePath) -> None:
        self.tick()
        super().remove_folder(path)

    def set_mode(self, path: StorePath, mode: int) -> None:
        self.tick()
        super().set_mode(path, mode)

    def set_folder_mode(self, path: StorePath, mode: int) -> None:
        self.tick()
        super().set_folder_mode(path, mode)

    def sync_folder(self, path: StorePath) -> None:
        self.tick()
        super().sync_folder(path)

    def sync_all(self) -> None:
        self.tick()
        super().sync_all()


Place = Callable[[StorePath], Path]
"""Where a path of the time of a change lies now: its folder may have been renamed since."""


@dataclass
class Change:
    folders: set[str]
    undo: Callable[[Place], object]
    number: int
    """Greater than that of any earlier change."""


@dataclass
class Move:
    """A folder was renamed."""

    source: str
    target: str
    number: int
    lost: bool = False


class PowerCut(Mortal):
    """Keeps, for each change of a name, how to take it back, until the folder is synced; then loses some of the rest.

    ordered: a journalling file system loses a suffix of its history. Otherwise each folder loses a suffix of its own,
    which is as bad as POSIX allows. What was removed lies in a graveyard until then, so that its inode can come back.
    The index comes back as it was some time ago, or not at all.
    """

    trusts_ctime = False  # taking a rename back changes inode times, which a power cut does not

    def __init__(self, at: int, root: Path, chance: random.Random) -> None:
        super().__init__(at)
        self._base = root
        self._graves = root.with_name(root.name + ".graves")
        self._graves.mkdir(exist_ok=True)
        self._names = itertools.count()
        self._numbers = itertools.count()
        self._moves: list[Move] = []
        self._pending: list[Change] = []
        self._chance = chance
        self._index_at = chance.randrange(max(1, at)) + 1
        self._saved = self._graves / f"index-{os.getpid()}"
        self._buried: Counter[int] = Counter()

    def tick(self) -> None:
        super().tick()
        if self.done == self._index_at and (self._base / "index.sqlite").exists():
            source = sqlite3.connect(self._base / "index.sqlite", timeout=0.05)
            target = sqlite3.connect(self._saved)
            with suppress(sqlite3.OperationalError):  # in the middle of a transaction: this cut keeps the index
                source.backup(target)
            source.close()
            target.close()

    def end(self) -> None:
        try:
            self._forget()
        finally:
            os._exit(CUT)

    def _forget(self) -> None:
        lost = self._lost()
        for change in reversed(self._pending):
            if id(change) in lost:
                with suppress(OSError):
                    change.undo(lambda path, number=change.number: self._place(path, number))
                for move in self._moves:
                    move.lost = move.lost or move.number == change.number
        index = self._base / "index.sqlite"
        luck = self._chance.random()
        if luck < 0.2 or (luck < 0.7 and self._saved.exists()):
            for name in ("", "-wal", "-shm"):
                index.with_name(index.name + name).unlink(missing_ok=True)
            if luck >= 0.2:
                self._saved.rename(index)

    def _lost(self) -> set[int]:
        if self._chance.random() < 0.5:
            first = self._chance.randrange(len(self._pending) + 1)
            return {id(change) for change in self._pending[first:]}
        lost: set[int] = set()
        for folder in sorted({folder for change in self._pending for folder in change.folders}):
            mine = [change for change in self._pending if folder in change.folders]
            lost |= {id(change) for change in mine[self._chance.randrange(len(mine) + 1) :]}
        return lost

    def _note(self, undo: Callable[[Place], object], *paths: StorePath) -> None:
        self._pending.append(Change({str(PurePosixPath(path).parent) for path in paths}, undo, next(self._numbers)))

    def _place(self, path: StorePath, number: int) -> Path:
        """Follow the renames of folders that came after a change and are not taken back."""
        found = str(path)
        for move in self._moves:
            if move.number > number and not move.lost and found.startswith(f"{move.source}/"):
                found = move.target + found[len(move.source) :]
        return self._base / found

    def _grave(self) -> Path:
        return self._graves / f"{os.getpid()}-{next(self._names)}"

    def links(self, found: os.stat_result) -> int:
        return found.st_nlink - self._buried[found.st_ino]

    def _bury(self, path: StorePath) -> Callable[[Place], object]:
        grave = self._grave()
        return lambda at: os.rename(at(path), grave)

    def make_folder(self, path: StorePath) -> None:
        pure = PurePosixPath(path)
        missing = [folder for folder in (pure, *pure.parents) if not (self._base / folder).exists()]
        super().make_folder(path)
        for folder in reversed(missing):
            self._note(self._bury(folder), folder)

    def write(self, path: StorePath, chunks: Iterable[bytes]) -> None:
        fresh = not (self._base / path).exists()
        super().write(path, chunks)
        if fresh:
            self._note(self._bury(path), path)

    def link(self, source: StorePath, target: StorePath) -> None:
        super().link(source, target)
        self._note(self._bury(target), target)

    def symlink(self, content: str, path: StorePath) -> None:
        super().symlink(content, path)
        self._note(self._bury(path), path)

    def set_link_time(self, path: StorePath, ns: int) -> None:
        there = self._base / path
        before = os.lstat(there).st_mtime_ns
        super().set_link_time(path, ns)
        self._note(lambda at: os.utime(at(path), ns=(before, before), follow_symlinks=False), path)

    def rename(self, source: StorePath, target: StorePath) -> None:
        grave, new = self._grave(), self._base / target
        replaced = os.path.lexists(new) and not os.path.isdir(new)
        if replaced:
            if os.path.islink(new):
                os.symlink(os.readlink(new), grave)
            else:
                os.link(new, grave)
                self._buried[os.stat(grave).st_ino] += 1
        super().rename(source, target)

        def undo(at: Place) -> None:
            os.rename(at(target), at(source))
            if replaced:
                os.rename(grave, at(target))

        self._note(undo, source, target)
        if new.is_dir() and not new.is_symlink():
            self._moves.append(Move(str(source), str(target), self._pending[-1].number))
            for change in self._pending[:-1]:
                change.folders = {_moved(folder, str(source), str(target)) for folder in change.folders}

    def unlink(self, path: StorePath) -> None:
        self.tick()
        there = self._base / path
        if not os.path.lexists(there):
            raise FileNotFoundError(path)
        grave = self._grave()
        os.rename(there, grave)
        self._buried[os.lstat(grave).st_ino] += 1
        self._note(lambda at: os.rename(grave, at(path)), path)

    def remove_folder(self, path: StorePath) -> None:
        super().remove_folder(path)
        self._note(lambda at: os.mkdir(at(path)), path)

    def sync_folder(self, path: StorePath) -> None:
        super().sync_folder(path)
        # A rename between folders is one transaction in every file system that is supported: one sync makes it durable.
        self._pending = [change for change in self._pending if str(path or ".") not in change.folders]

    def sync_all(self) -> None:
        super().sync_all()
        self._pending.clear()


def _moved(folder: str, source: str, target: str) -> str:
    inside = folder == source or folder.startswith(f"{source}/")
    return target + folder[len(source) :] if inside else folder


def child(body: Callable[[], None]) -> int:
    """Run in a forked process; how it ended: SURVIVED, CUT, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os._exit(SURVIVED)
        except BaseException as error:
            import traceback

            traceback.print_exception(error)
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
