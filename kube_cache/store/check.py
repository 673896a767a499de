"""A look at a snapshot: what `stat` says of each file against what the manifest says; no byte is read.

A changed inode time alone may come of our own links (objects are shared): the index knows those; what it does not know is
read again before it is trusted. A silently flipped bit no look can find; the scrub and `check_full` do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from kube_cache.store import manifests
from kube_cache.store.disk import Disk
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Chunk, Header

try:
    from kube_cache.store import _check as _built  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # no compiler where the package was built; the answers are the same, later
    _built = None  # type: ignore[assignment, unused-ignore]

Times = Callable[[Sequence[bytes]], dict[bytes, tuple[int, int]]]
"""`Memory.times`."""
_Moved = tuple[bytes, int, int, int, bytes]
"""A file whose inode time alone differs: id, inode, inode time now, size, path."""
_MOST_PROBLEMS = 100
# Some 50,000 files: few enough to be of no weight in memory, enough to keep several threads busy.
_PIECE = 4 << 20
_SIGN = (1 << 64) - 1
# So many questions to the index cost less than a second look.
_FEW = 1000
_MOST_THREADS = 4
# Fewer are done before a second thread has begun.
_ALONE = 4 * manifests.CHUNK


@dataclass(frozen=True, slots=True)
class SnapshotState:
    complete: bool
    present_bytes: int
    problems: list[str] = field(default_factory=list)
    """At most a hundred, then their number."""


class _Tally:
    def __init__(self, damage: Sequence[str]) -> None:
        self.seen = 0
        """Files that were looked at in C."""
        self.good = 0
        self.count = 0
        self.problems: list[str] = []
        self.moved_bytes = 0
        """Of files whose inode time alone differs, when they were not listed; `sign` tells their times from others."""
        self.sign = 0
        self.harm(damage, len(damage))

    def harm(self, problems: Sequence[str], count: int) -> None:
        self.count += count
        self.problems += problems[: _MOST_PROBLEMS - len(self.problems)]

    def state(self) -> SnapshotState:
        unsaid = self.count - len(self.problems)
        more = [f"and {unsaid} more"] if unsaid else []
        return SnapshotState(self.count == 0, self.good, self.problems + more)


class Memory(Protocol):
    """The index: what it knows of objects, and what it was told by an earlier look."""

    def times(self, ids: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Raw id -> inode, and the inode time that we caused last."""
        ...

    def sign_of(self, digest: str) -> int | None:
        """Of the inode times that differ from the manifest and were all explained when it was last looked at."""
        ...

    def set_sign(self, digest: str, sign: int) -> None: ...


def look(layout: Layout, disk: Disk, digest: str, memory: Memory) -> SnapshotState:
    """Raises OSError when the manifest cannot be read, though it is there."""
    damage: list[str] = []
    with suppress(FileNotFoundError):
        damage = [line.replace(" | ", " ") for line in layout.damaged(digest).read_text().splitlines()]
    try:
        with layout.manifest(digest).open("rb") as file, _folder(layout.files(digest)) as data:
            header, _ = manifests.begin(file)
            tally = _look_at(file, header, data, damage, memory if disk.trusts_ctime else None)
    except FileNotFoundError:
        return SnapshotState(complete=False, present_bytes=0)
    except manifests.TornManifest as error:
        return SnapshotState(complete=False, present_bytes=0, problems=[f"the manifest is torn ({error})"])
    return tally.state()


def _look_at(file: BinaryIO, header: Header, data: int, damage: list[str], memory: Memory | None) -> _Tally:
    """memory: None where inode times mean nothing."""
    times = memory.times if memory else None
    start = file.tell()
    tally = _Tally(damage)
    if _built is not None:
        few: list[_Moved] | None = []
        for number, moved in _by_threads(file, header, data, tally, _FEW):
            few = None if few is None or len(few) + number > _FEW else [*few, *moved]
        if memory is None or tally.sign in {0, memory.sign_of(header.digest)}:
            tally.good += tally.moved_bytes
        elif few is not None:
            _explain(few, tally, times)
        else:
            # Something was linked or unlinked since they were explained: once more, and each one is asked for.
            file.seek(start)
            tally = _Tally(damage)
            for _, moved in _by_threads(file, header, data, tally, header.files):
                _explain(moved, tally, times)
            if tally.count == 0:
                memory.set_sign(header.digest, tally.sign)
    for chunk in manifests.rest(file, header, tally.seen):
        _by_hand(chunk, data, tally, times)
    return tally


def folders(layout: Layout, digest: str) -> Iterator[Path] | None:
    """Those whose entries make the snapshot; None when they are too many to watch, or not known."""
    try:
        with layout.manifest(digest).open("rb") as file:
            _, names = manifests.begin(file)
    except (OSError, manifests.TornManifest):
        return None
    if names is None:
        return None
    data = layout.files(digest)
    return iter([layout.snapshot(digest), *(data / name for name in names)])


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """A descriptor of it; one of nothing when it is not there, so that nothing is found in it."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _by_threads(
    file: BinaryIO, header: Header, data: int, tally: _Tally, most: int
) -> Iterator[tuple[int, list[_Moved]]]:
    """How many files of each piece are to be explained, and at most so many of them.

    `file` is in the end at what does not hold files any more.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1) if header.files > _ALONE else 1
    left = b""
    while True:
        piece = left + file.read(_PIECE)
        try:
            found = _built.look(piece, data, threads, tally.seen, most)
        except ValueError as error:
            raise manifests.TornManifest(str(error)) from error
        used, files, good, count, harmed, number, moved_bytes, sign, moved = found
        tally.seen += files
        tally.good += good
        tally.moved_bytes += moved_bytes
        tally.sign = (tally.sign + sign) & _SIGN
        tally.harm([_harm(os.fsdecode(path), missing=bool(missing)) for path, missing in harmed], count)
        yield number, moved
        left = piece[used:]
        if not used:
            file.seek(-len(left), os.SEEK_CUR)
            return


def _by_hand(chunk: Chunk, data: int, tally: _Tally, times: Times | None) -> None:
    """The same in Python."""
    problems: list[str] = []
    moved: list[_Moved] = []
    stat = os.stat
    for place, (path, size, mtime, ctime, inode) in enumerate(
        zip(chunk.paths, chunk.sizes, chunk.mtimes, chunk.ctimes, chunk.inodes, strict=True)
    ):
        try:
            now = stat(path, dir_fd=data, follow_symlinks=False)
        except OSError:
            problems.append(_harm(path, missing=True))
            continue
        if now.st_size != size or now.st_mtime_ns != mtime or now.st_ino != inode:
            problems.append(_harm(path, missing=False))
        elif now.st_ctime_ns != ctime:
            moved.append((bytes.fromhex(chunk.ids[place]), inode, now.st_ctime_ns, size, os.fsencode(path)))
        else:
            tally.good += size
    tally.harm(problems, len(problems))
    _explain(moved, tally, times)


def _harm(path: str, *, missing: bool) -> str:
    return f"{path} is missing" if missing else f"{path} was changed"


def _explain(moved: Sequence[_Moved], tally: _Tally, times: Times | None) -> None:
    """Those that our own links explain are sound."""
    known = times([name for name, *_ in moved]) if moved and times else {}
    problems = []
    for name, inode, ctime, size, path in moved:
        if times is None or known.get(name) == (inode, ctime):
            tally.good += size
        else:
            problems.append(f"{os.fsdecode(path)} was touched (its inode changed)")
    tally.harm(problems, len(problems))
