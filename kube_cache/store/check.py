"""Checks a snapshot: compares what `stat` says of each file with its manifest. Does not read a byte of the files.

A ctime that alone differs may come of our own links, because objects are shared: the index knows the ctimes that those
left. Any other change of a ctime is a problem until the object is read again. No check can find a silently flipped bit:
the scrub and `check_full` do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

from kube_cache.store import beneath, manifests
from kube_cache.store.beneath import KeptFolders
from kube_cache.store.damage import read_damaged
from kube_cache.store.disk import Disk
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Chunk, Header

try:
    from kube_cache.store import _check as _native  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # the package was built without a compiler: the answers are the same, but later
    _native = None  # type: ignore[assignment, unused-ignore]

_MAX_PROBLEMS = 100
_PIECE_BYTES = 4 << 20  # some 50,000 files: little memory, and enough work for several threads
_FINGERPRINT_MASK = (1 << 64) - 1
_MAX_LISTED = 1000  # looking up so many ctimes in the index costs less than a second pass over the files
_MAX_THREADS = 4
_MAX_SINGLE_THREAD_FILES = 4 * manifests.CHUNK_FILES  # done before a second thread has begun


@dataclass(frozen=True, slots=True)
class SnapshotState:
    complete: bool
    present_bytes: int
    problems: list[str] = field(default_factory=list)
    """At most a hundred, then the number of the others."""
    verified: str = ""
    """The weakest verification among the files; given by `NodeStore.check_for_pod` for a complete snapshot."""


class CtimeIndex(Protocol):
    """The part of the index that a check asks; see `Index`."""

    def ctimes(self, ids: Sequence[bytes]) -> dict[bytes, tuple[int, int]]: ...

    def ctime_fingerprint(self, digest: str) -> int | None: ...

    def set_ctime_fingerprint(self, digest: str, fingerprint: int) -> None: ...


_CtimeLookup = Callable[[Sequence[bytes]], dict[bytes, tuple[int, int]]]
"""`CtimeIndex.ctimes`."""


class CtimeChanged(NamedTuple):
    """A file whose ctime alone differs from the manifest."""

    id: bytes
    inode: int
    ctime: int
    """As it is now, in nanoseconds."""
    size: int
    path: bytes


class _PieceReport(NamedTuple):
    """What `_check.check_piece` returns; the fields are explained there."""

    used_bytes: int
    files: int
    good_bytes: int
    bad_files: int
    problems: list[tuple[bytes, int]]
    """(path, whether missing)."""
    ctime_changed_files: int
    ctime_changed_bytes: int
    fingerprint: int
    ctime_changed: list[tuple[bytes, int, int, int, bytes]]
    """The fields of `CtimeChanged`."""


class _Tally:
    """What a check has found so far."""

    def __init__(self, damage: Sequence[str]) -> None:
        self.files = 0
        """Files that were checked in C."""
        self.good_bytes = 0
        self.problem_count = 0
        self.problems: list[str] = []
        self.ctime_changed_bytes = 0
        """Of the files that were checked in C; not part of good_bytes until their ctimes are explained."""
        self.fingerprint = 0
        """Of their ctimes; 0 if no ctime differs."""
        self.add_problems(damage, len(damage))

    def add_problems(self, problems: Sequence[str], count: int) -> None:
        """Add `count` problems, of which `problems` are the first."""
        self.problem_count += count
        self.problems += problems[: _MAX_PROBLEMS - len(self.problems)]

    def state(self) -> SnapshotState:
        unlisted = self.problem_count - len(self.problems)
        more = [f"and {unlisted} more"] if unlisted else []
        return SnapshotState(self.problem_count == 0, self.good_bytes, self.problems + more)


def check_snapshot(layout: Layout, disk: Disk, digest: str, index: CtimeIndex) -> SnapshotState:
    """Compare the files of the snapshot with its manifest. Raises OSError if the manifest exists but cannot be read."""
    damage = [f"{file.path} {file.reason}" for file in read_damaged(layout, disk, digest)]
    try:
        with disk.open_file(layout.manifest(digest)) as file, _open_folder(disk, layout.files(digest)) as data:
            header = manifests.read_start(file)
            tally = _check_files(file, header, data, damage, index if disk.trusts_ctime else None)
    except FileNotFoundError:
        return SnapshotState(complete=False, present_bytes=0)
    except manifests.OtherVersion as error:
        return SnapshotState(complete=False, present_bytes=0, problems=[f"the manifest is of another build ({error})"])
    except manifests.TornManifest as error:
        return SnapshotState(complete=False, present_bytes=0, problems=[f"the manifest is torn ({error})"])
    return tally.state()


def _check_files(file: BinaryIO, header: Header, data: int, damage: list[str], index: CtimeIndex | None) -> _Tally:
    """Check the files that follow in the manifest. index: None where ctimes mean nothing."""
    lookup = index.ctimes if index else None
    start = file.tell()
    tally = _Tally(damage)
    if _native is not None:
        listed: list[CtimeChanged] | None = []
        for report in _check_natively(file, header, data, tally, _MAX_LISTED):
            if listed is not None and len(listed) + report.ctime_changed_files <= _MAX_LISTED:
                listed += map(CtimeChanged._make, report.ctime_changed)
            else:
                listed = None
        if index is None or tally.fingerprint in {0, index.ctime_fingerprint(header.digest)}:
            tally.good_bytes += tally.ctime_changed_bytes
        elif listed is not None:
            _accept_own_ctimes(listed, tally, lookup)
        else:
            # Objects were linked or unlinked since the last check: check again, and look up each changed ctime.
            file.seek(start)
            tally = _Tally(damage)
            for report in _check_natively(file, header, data, tally, header.files):
                _accept_own_ctimes(map(CtimeChanged._make, report.ctime_changed), tally, lookup)
            if tally.problem_count == 0:
                index.set_ctime_fingerprint(header.digest, tally.fingerprint)
    for chunk in manifests.read_files(file, header, tally.files):
        _check_chunk(chunk, data, tally, lookup)
    return tally


@contextmanager
def _open_folder(disk: Disk, path: PurePosixPath) -> Iterator[int]:
    """Open the folder, or yield -1 if it cannot be opened: every lookup then fails."""
    try:
        fd = disk.open_folder(path)
    except OSError:
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _check_natively(
    file: BinaryIO, header: Header, data: int, tally: _Tally, max_listed: int
) -> Iterator[_PieceReport]:
    """Check the files in C, a piece of the manifest at a time, and yield a report for each piece.

    A report lists up to `max_listed` files whose ctime alone differs. Leaves `file` at the first frame after the files.
    """
    threads = min(_MAX_THREADS, os.cpu_count() or 1) if header.files > _MAX_SINGLE_THREAD_FILES else 1
    left = b""
    while True:
        piece = left + file.read(_PIECE_BYTES)
        try:
            report = _PieceReport._make(
                _native.check_piece(piece, data, beneath.USES_OPENAT2, threads, tally.files, max_listed)
            )
        except ValueError as error:
            raise manifests.TornManifest(str(error)) from error
        tally.files += report.files
        tally.good_bytes += report.good_bytes
        tally.ctime_changed_bytes += report.ctime_changed_bytes
        tally.fingerprint = (tally.fingerprint + report.fingerprint) & _FINGERPRINT_MASK
        problems = [_problem(os.fsdecode(path), missing=bool(missing)) for path, missing in report.problems]
        tally.add_problems(problems, report.bad_files)
        yield report
        left = piece[report.used_bytes :]
        if not report.used_bytes:
            file.seek(-len(left), os.SEEK_CUR)
            return


def _check_chunk(chunk: Chunk, data: int, tally: _Tally, lookup: _CtimeLookup | None) -> None:
    """Check the files of one chunk in Python, as `_check.c` does."""
    problems: list[str] = []
    ctime_changed: list[CtimeChanged] = []
    with KeptFolders(data) as folders:
        for place, (path, size, mtime, ctime, inode) in enumerate(
            zip(chunk.paths, chunk.sizes, chunk.mtimes, chunk.ctimes, chunk.inodes, strict=True)
        ):
            try:
                folder, name = folders.find(path)
                now = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                problems.append(_problem(path, missing=True))
                continue
            if now.st_size != size or now.st_mtime_ns != mtime or now.st_ino != inode:
                problems.append(_problem(path, missing=False))
            elif now.st_ctime_ns != ctime:
                id_ = bytes.fromhex(chunk.ids[place])
                ctime_changed.append(CtimeChanged(id_, inode, now.st_ctime_ns, size, os.fsencode(path)))
            else:
                tally.good_bytes += size
    tally.add_problems(problems, len(problems))
    _accept_own_ctimes(ctime_changed, tally, lookup)


def _problem(path: str, *, missing: bool) -> str:
    return f"{path} is missing" if missing else f"{path} was changed"


def _accept_own_ctimes(files: Iterable[CtimeChanged], tally: _Tally, lookup: _CtimeLookup | None) -> None:
    """Count the files whose ctimes our own links left as good, and all others as problems. lookup: None accepts all."""
    files = list(files)
    known = lookup([file.id for file in files]) if files and lookup else {}
    problems = []
    for file in files:
        if lookup is None or known.get(file.id) == (file.inode, file.ctime):
            tally.good_bytes += file.size
        else:
            problems.append(f"{os.fsdecode(file.path)} was touched (its inode changed)")
    tally.add_problems(problems, len(problems))
