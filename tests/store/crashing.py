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
from pathlib import Path

from kube_cache.store.disk import Disk

SURVIVED, CUT = 7, 8


class Mortal(Disk):
    """Dies by `end` before its n-th change."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.done = 0

    def tick(self) -> None:
        self.done += 1
        self._left -= 1
        if self._left == 0:
            self.end()

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def make_folder(self, path: Path) -> None:
        self.tick()
        super().make_folder(path)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        def ticking() -> Iterable[bytes]:
            for chunk in chunks:
                self.tick()
                yield chunk

        super().write(path, ticking())

    def link(self, source: Path | str, target: Path | str) -> None:
        self.tick()
        super().link(source, target)

    def symlink(self, content: str, path: Path) -> None:
        self.tick()
        super().symlink(content, path)

    def rename(self, source: Path | str, target: Path | str) -> None:
        self.tick()
        super().rename(source, target)

    def unlink(self, path: Path | str) -> None:
        self.tick()
        super().unlink(path)

    def remove_folder(self, path: Path | str) -> None:
        self.tick()
        super().remove_folder(path)

    def set_mode(self, path: Path | str, mode: int) -> None:
        self.tick()
        super().set_mode(path, mode)

    def sync_folder(self, path: Path) -> None:
        self.tick()
        super().sync_folder(path)

    def sync_all(self, root: Path) -> None:
        self.tick()
        super().sync_all(root)


@dataclass
class Change:
    folders: set[str]
    undo: Callable[[], object]


class PowerCut(Mortal):
    """Keeps, for each change of a name, how to take it back, until the folder is synced; then loses some of the rest.

    ordered: a journalling file system loses a suffix of its history. Otherwise each folder loses a suffix of its own,
    which is as bad as POSIX allows. What was removed lies in a graveyard until then, so that its inode can come back.
    The index comes back as it was some time ago, or not at all.
    """

    trusts_ctime = False  # taking a rename back changes inode times, which a power cut does not

    def __init__(self, at: int, root: Path, chance: random.Random) -> None:
        super().__init__(at)
        self._root = root
        self._graves = root.with_name(root.name + ".graves")
        self._graves.mkdir(exist_ok=True)
        self._names = itertools.count()
        self._pending: list[Change] = []
        self._chance = chance
        self._index_at = chance.randrange(max(1, at)) + 1
        self._saved = self._graves / f"index-{os.getpid()}"
        self._buried: Counter[int] = Counter()

    def tick(self) -> None:
        super().tick()
        if self.done == self._index_at and (self._root / "index.sqlite").exists():
            source = sqlite3.connect(self._root / "index.sqlite", timeout=0.05)
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
                    change.undo()
        index = self._root / "index.sqlite"
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

    def _note(self, undo: Callable[[], object], *paths: Path | str) -> None:
        self._pending.append(Change({str(Path(path).parent) for path in paths}, undo))

    def _grave(self) -> Path:
        return self._graves / f"{os.getpid()}-{next(self._names)}"

    def links(self, stat: os.stat_result) -> int:
        return stat.st_nlink - self._buried[stat.st_ino]

    def _bury(self, path: Path | str) -> Callable[[], object]:
        grave = self._grave()
        return lambda: os.rename(path, grave)

    def make_folder(self, path: Path) -> None:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        super().make_folder(path)
        for folder in reversed(missing):
            self._note(self._bury(folder), folder)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        fresh = not path.exists()
        super().write(path, chunks)
        if fresh:
            self._note(self._bury(path), path)

    def link(self, source: Path | str, target: Path | str) -> None:
        super().link(source, target)
        self._note(self._bury(target), target)

    def symlink(self, content: str, path: Path) -> None:
        super().symlink(content, path)
        self._note(self._bury(path), path)

    def rename(self, source: Path | str, target: Path | str) -> None:
        grave = self._grave()
        replaced = os.path.lexists(target) and not os.path.isdir(target)
        if replaced:
            if os.path.islink(target):
                os.symlink(os.readlink(target), grave)
            else:
                os.link(target, grave)
                self._buried[os.stat(grave).st_ino] += 1
        super().rename(source, target)

        def undo() -> None:
            os.rename(target, source)
            if replaced:
                os.rename(grave, target)

        self._note(undo, source, target)

    def unlink(self, path: Path | str) -> None:
        self.tick()
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        grave = self._grave()
        os.rename(path, grave)
        self._buried[os.lstat(grave).st_ino] += 1
        self._note(lambda: os.rename(grave, path), path)

    def remove_folder(self, path: Path | str) -> None:
        super().remove_folder(path)
        self._note(lambda: os.mkdir(path), path)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        # A rename between folders is one transaction in every file system that is supported: one sync makes it durable.
        self._pending = [change for change in self._pending if str(path) not in change.folders]

    def sync_all(self, root: Path) -> None:
        super().sync_all(root)
        self._pending.clear()


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
