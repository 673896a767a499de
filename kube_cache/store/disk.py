"""Every change that the store makes to its file system goes through `Disk`, one method a system call.

This is the seam where the tests cut the power: they put in its place one that counts, kills, fails or forgets what was
not synced. So nothing here is clever, and nothing else in the package changes a file, the index (SQLite) apart.
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
    """False only where a test rewrites history and thereby inode change times."""

    def make_folder(self, path: Path) -> None:
        """With its parents; those that are there already are fine."""
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """A new file whose bytes are durable; its name is only once the folder is synced."""
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
        """Atomic; replaces a file that is there."""
        os.replace(source, target)

    def unlink(self, path: Path | str) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path | str) -> None:
        os.rmdir(path)

    def set_mode(self, path: Path | str, mode: int) -> None:
        os.chmod(path, mode)

    def sync_folder(self, path: Path) -> None:
        """Names made, removed and renamed in it are durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, root: Path) -> None:
        """Everything on the file system is durable: one syncfs(2), however many files."""
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(root))
        finally:
            os.close(fd)

    def links(self, found: os.stat_result) -> int:
        """How many names the file has; here because only here is it known what a test keeps aside."""
        return found.st_nlink

    # Put together from those above.

    def write_whole(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Whole or as before, and durable."""
        aside = path.with_name(f".{path.name}.new")
        self.write(aside, chunks)
        self.rename(aside, path)
        self.sync_folder(path.parent)

    def unlink_if_there(self, path: Path | str) -> bool:
        try:
            self.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def remove_tree(self, path: Path) -> None:
        """Read-only folders too; absent is fine."""
        if path.is_symlink() or not path.is_dir():
            self.unlink_if_there(path)
            return
        path_mode = path.stat().st_mode & 0o777
        if path_mode & 0o700 != 0o700:
            self.set_mode(path, 0o755)  # ours alone already: only so that its entries can be removed
        with os.scandir(path) as entries:
            found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            if is_folder:
                self.remove_tree(Path(name))
            else:
                self.unlink_if_there(name)
        self.remove_folder(path)
