"""`Disk`: every change that the store makes to its file system, one method a system call.

The seam where tests cut the power: they substitute a disk that counts, kills, fails or forgets changes that were not
synced. So no method decides anything, and no other module of the store changes a file, except SQLite the index.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """Every method raises OSError."""

    trusts_ctime = True
    """False only in tests that take changes back, which alters inode change times."""

    def make_folder(self, path: Path) -> None:
        """Create the folder and its parents; existing ones are no error."""
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write a new file and sync its bytes. Its name is durable only after `sync_folder`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path | str, target: Path | str) -> None:
        os.link(source, target, follow_symlinks=False)

    def symlink(self, content: str, path: Path) -> None:
        path.symlink_to(content)

    def rename(self, source: Path | str, target: Path | str) -> None:
        """Rename atomically; an existing file is replaced."""
        os.replace(source, target)

    def unlink(self, path: Path | str) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path | str) -> None:
        os.rmdir(path)

    def set_mode(self, path: Path | str, mode: int) -> None:
        os.chmod(path, mode)

    def sync_folder(self, path: Path) -> None:
        """Make the names durable that were created, removed or renamed in the folder."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, root: Path) -> None:
        """Make everything on the file system durable: one syncfs(2), however many files."""
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(root))
        finally:
            os.close(fd)

    def links(self, stat: os.stat_result) -> int:
        """Return the number of the file's names. A method, because a test's disk keeps removed files elsewhere."""
        return stat.st_nlink

    # Composed of the methods above.

    def write_whole(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Replace a file atomically and durably: after a crash it is whole, or as before."""
        aside = path.with_name(f".{path.name}.new")
        self.write(aside, chunks)
        self.rename(aside, path)
        self.sync_folder(path.parent)

    def unlink_if_there(self, path: Path | str) -> bool:
        """Unlink the file. False if there was none."""
        try:
            self.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def remove_tree(self, path: Path) -> None:
        """Remove a file, or a folder with all below it, read-only ones too; an absent path is no error."""
        if path.is_symlink() or not path.is_dir():
            self.unlink_if_there(path)
            return
        if path.stat().st_mode & 0o700 != 0o700:
            self.set_mode(path, 0o755)  # so that its entries can be removed
        with os.scandir(path) as scan:
            entries = list(scan)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self.remove_tree(Path(entry.path))
            else:
                self.unlink_if_there(entry.path)
        self.remove_folder(path)
