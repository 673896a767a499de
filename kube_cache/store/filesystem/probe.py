"""Probes what the file system of the cache root can do, in a scratch folder, before the first dataset is fetched.

A file system that lacks what the store is built on (hard links, renames, locks, syncs) is refused at start, by name and
with the remedy, and not when 400 GB are to be published. What only costs speed is told. Tries each thing for real,
because a type's name promises nothing. Works beside `Disk`, since nothing here is to survive a power cut.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import structlog

from kube_cache.disk_faults import disk_fault
from kube_cache.errors import NodeUnsuitable
from kube_cache.store.filesystem import guard
from kube_cache.store.settings import StoreSettings

_log = structlog.get_logger("kube_cache.store")

SCRATCH_PREFIX: Final = ".probe-"
"""Beginning of the scratch folder's name; one that a kill left behind is found by the sweep."""
DIRECT_BLOCK: Final = 4096
"""Alignment of the engine's direct writes in bytes (`kube_cache.engine.part_file.BLOCK`)."""
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "virtiofs"})
_UNSTABLE: Final = frozenset({"overlay", "aufs"})
_REMEDY: Final = "give the cache a local ext4, XFS or btrfs (KUBE_CACHE_STORE__ROOT)"
_TRANSIENT: Final = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
})  # fmt: skip
"""Answers that tell of the disk's state or of our rights, not of what the file system can do."""
_STATX, _OPENAT2 = {"x86_64": (332, 437), "aarch64": (291, 437)}.get(platform.machine(), (0, 0))
_STATX_DIOALIGN, _DIO_ALIGN_AT = 0x2000, 0x98  # include/uapi/linux/stat.h
_RESOLVE_BENEATH = 0x08
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the file system of the cache root can do."""

    kind: str
    """Type of the file system; empty if unknown."""
    needed: dict[str, str] = field(default_factory=dict)
    """What the store is built on: empty if the file system can do it, else its answer."""
    optional: dict[str, str] = field(default_factory=dict)
    """The same for what only costs speed or a feature."""
    direct_align: int = 0
    """Alignment in bytes that the kernel asks of direct writes; 0: not told, or none are possible."""

    @property
    def direct_writes(self) -> bool:
        return not self.optional.get("direct writes", "untried")

    @property
    def lacks(self) -> list[str]:
        return [f"{name} ({answer})" for name, answer in (self.needed | self.optional).items() if answer]

    def summary(self) -> str:
        """Say it in one line, for people."""
        can = [name for name, answer in (self.needed | self.optional).items() if not answer]
        if self.direct_align and self.direct_writes:
            can = [f"{name} (of {self.direct_align} bytes)" if name == "direct writes" else name for name in can]
        lacks = f"; lacks {', '.join(self.lacks)}" if self.lacks else ""
        return f"{self.kind or 'unknown'}: {', '.join(can)}{lacks}"

    def warnings(self) -> list[str]:
        """Say what will cost speed, or surprise."""
        found = []
        if not self.direct_writes:
            found.append(
                f"{self.kind} refuses direct writes of {DIRECT_BLOCK} bytes: downloads go through the page cache, which"
                " is slower on fast networks"
            )
        if self.kind in _NETWORK or self.kind.startswith("fuse"):
            found.append(
                f"{self.kind} is no local disk: a cache on it is as slow, and as reliable, as what is behind it"
            )
        if self.kind in _UNSTABLE:
            found.append(
                f"{self.kind} may give files other inode numbers after a remount: snapshots then count as changed"
            )
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str | None) -> Capabilities | None:
        """Read what `to_json` wrote; None if there is nothing, or another build wrote it."""
        try:
            return cls(**json.loads(text)) if text else None
        except (ValueError, TypeError):
            return None


def examine(root: Path, settings: StoreSettings) -> Capabilities:
    """Refuse a root on the node's own disk, or on a file system that lacks what is needed; log what the disk can do.

    Raises NodeUnsuitable, DiskFault, OSError.
    """
    place = guard.look(root)
    if not settings.allow_root_disk:
        guard.check_place(root, place)
    found = probe(root, place.root.kind if place else "")
    _log.info("the disk was probed", root=str(root), can=found.summary())
    for warning in found.warnings():
        _log.warning("the disk is not a good one", root=str(root), why=warning)
    return found


def probe(root: Path, kind: str = "") -> Capabilities:
    """Try everything once. kind: type of the file system. Raises NodeUnsuitable by name, DiskFault.

    Takes a few milliseconds. Running in two processes at once is harmless.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=root))
    except OSError as error:
        raise disk_fault(error, root) from error
    try:
        needed = {name: _answer(attempt, scratch) for name, attempt in _NEEDED.items()}
        optional = {name: _answer(attempt, scratch) for name, attempt in _OPTIONAL.items()}
        found = Capabilities(kind, needed, optional, _direct_alignment(scratch / "file"))
    finally:
        _remove(scratch)
    if missing := [f"{name} ({answer})" for name, answer in needed.items() if answer]:
        raise NodeUnsuitable(
            f"{root}: its file system ({kind or 'of unknown type'}) cannot do what the cache is built on:"
            f" {', '.join(missing)}; {_REMEDY}"
        )
    return found


def _answer(attempt: Callable[[Path], None], scratch: Path) -> str:
    """Try one thing in the scratch folder: '' if it can be done, else the file system's answer. Raises DiskFault."""
    try:
        attempt(scratch)
    except OSError as error:
        if error.errno in _TRANSIENT:
            raise disk_fault(error, scratch) from error
        return errno.errorcode.get(error.errno or 0, str(error))
    except _Wrong as error:
        return str(error)
    return ""


class _Wrong(Exception):
    """The file system said yes, and did something else."""


def _file(scratch: Path, name: str = "file") -> Path:
    path = scratch / name
    path.write_bytes(b"probe")
    return path


def _hard_links(scratch: Path) -> None:
    path, link = _file(scratch), scratch / "link"
    link.unlink(missing_ok=True)
    os.link(path, link, follow_symlinks=False)
    first, second = path.stat(), link.stat()
    if (first.st_ino, first.st_nlink) != (second.st_ino, 2):
        raise _Wrong("a link is counted as another file")


def _rename_over(scratch: Path) -> None:
    old, new = _file(scratch, "old"), _file(scratch, "new")
    inode = new.stat().st_ino
    os.replace(new, old)
    if new.exists() or old.stat().st_ino != inode:
        raise _Wrong("the file got another inode")


def _rename_folder(scratch: Path) -> None:
    folder = scratch / "folder"
    folder.mkdir()
    _file(folder)
    os.rename(folder, scratch / "renamed")


def _symlink_and_times(scratch: Path) -> None:
    path, link = _file(scratch), scratch / "symlink"
    os.symlink("file", link)
    os.utime(path, ns=(1, 1_000_000_007))
    if os.readlink(link) != "file":
        raise _Wrong("a symbolic link leads elsewhere")


def _locks(scratch: Path) -> None:
    path = _file(scratch, "lock")
    first, second = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise _Wrong("two hold one lock")
    finally:
        os.close(first)
        os.close(second)


def _folder_sync(scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _space(scratch: Path) -> None:
    counted = os.statvfs(scratch)
    if counted.f_blocks == 0 or counted.f_bavail > counted.f_blocks:
        raise _Wrong(f"it counts {counted.f_bavail} of {counted.f_blocks} blocks free")


def _direct_writes(scratch: Path) -> None:
    """Write as the engine does: into a file that has its size, from memory that begins at a page."""
    fd = os.open(scratch / "direct", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DIRECT, 0o600)
    try:
        os.ftruncate(fd, 3 * DIRECT_BLOCK)
        with mmap.mmap(-1, 2 * DIRECT_BLOCK) as pages, memoryview(pages) as view, view[:DIRECT_BLOCK] as block:
            if os.pwrite(fd, block, DIRECT_BLOCK) != DIRECT_BLOCK:
                raise _Wrong("a direct write was short")
    finally:
        os.close(fd)


def _xattrs(scratch: Path) -> None:
    path = _file(scratch)
    os.setxattr(path, "user.kube-cache.probe", b"1")
    if os.getxattr(path, "user.kube-cache.probe") != b"1":
        raise _Wrong("another value came back")


def _beneath(scratch: Path) -> None:
    if not _OPENAT2:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH)
    _file(scratch)
    folder = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _libc.syscall(_OPENAT2, folder, b"file", ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    finally:
        os.close(folder)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.close(fd)


def _direct_alignment(path: Path) -> int:
    """Ask the kernel (6.1 and later) for the alignment of direct writes; 0 if it does not tell."""
    answer = ctypes.create_string_buffer(256)
    if not _STATX or _libc.syscall(_STATX, _AT_FDCWD, os.fsencode(path), 0, _STATX_DIOALIGN, answer) != 0:
        return 0
    if not int.from_bytes(answer.raw[:4], "little") & _STATX_DIOALIGN:
        return 0
    return int.from_bytes(answer.raw[_DIO_ALIGN_AT + 4 : _DIO_ALIGN_AT + 8], "little")


_NEEDED: Final[dict[str, Callable[[Path], None]]] = {
    "hard links": _hard_links,
    "rename over a file": _rename_over,
    "rename of a folder": _rename_folder,
    "symbolic links": _symlink_and_times,
    "locks (flock)": _locks,
    "sync of a folder": _folder_sync,
    "count of free space": _space,
}
_OPTIONAL: Final[dict[str, Callable[[Path], None]]] = {
    "direct writes": _direct_writes,
    "extended attributes": _xattrs,
    "openat2": _beneath,
}


def _remove(scratch: Path) -> None:
    with suppress(OSError):  # what is left, the sweep removes
        for folder, _, names in os.walk(scratch, topdown=False):
            for name in names:
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)
