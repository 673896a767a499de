"""`Disk`: all that the store does to its file system, and all that the store sees of it, by paths beneath the root.

The one module of the store that touches files, except SQLite's index. So no other module can leave the root or follow a
link that a container planted: a path is resolved as `beneath` says, and no method follows the last name of a path.

Also the seam where tests cut the power: they substitute a disk that counts, kills, fails or forgets changes that were
not synced. So each method that changes something is one system call, or is composed of such methods; none decides.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from kube_cache.store.beneath import KeptFolders, Root, StorePath, open_beneath

_libc = ctypes.CDLL(None, use_errno=True)
# Deeper folders are removed from the top, so that neither the stack nor a path grows with what a container made.
_MAX_DEPTH = 64
_MAX_EMPTYINGS = 8  # of one folder into which somebody else writes meanwhile
_MAX_RAISED = 100_000  # folders; more than any tree of ours has below _MAX_DEPTH
# A key has at most 1,024 bytes: a longer path below a snapshot is not ours.
_MAX_OWN_PATH = 1400


class Disk:
    """Thread-safe. Every path is relative to the root. Every method raises OSError, with the whole path."""

    trusts_ctime = True
    """False only in tests that take changes back, which alters inode change times."""

    def __init__(self) -> None:
        self._root: Root | None = None
        self._local = threading.local()

    def open(self, root: Path, *, create: bool = True) -> None:
        """Work beneath this folder from now on. Called again when the disk was replaced.

        create: make the folder if it is missing.
        """
        if create:
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._root = Root(str(root))
        self._local = threading.local()

    @property
    def root(self) -> Root:
        if self._root is None:
            raise ValueError("the disk is not open")
        return self._root

    def is_current(self) -> bool:
        """Check that no other folder or file system has taken the root's place."""
        return self.root.is_at_its_path()

    def keep_folders(self) -> KeptFolders:
        """Keep folders open in this thread, within a `with` block: for loops over many names. Reentrant."""
        try:
            kept: KeptFolders = self._local.kept
        except AttributeError:
            kept = self._local.kept = KeptFolders(self.root.fd, self.root)
        return kept

    # Changes.

    def make_folder(self, path: StorePath) -> None:
        """Create the folder and its parents; existing ones are no error."""
        try:
            with self.keep_folders() as folders:
                fd, name = folders.find(path)
                os.mkdir(name, 0o755, dir_fd=fd)
        except FileExistsError:
            if not self.is_folder(path):
                raise
        except FileNotFoundError:
            parent = str(path).rpartition("/")[0]
            if not parent or (self.exists(parent) and not self.is_folder(parent)):
                raise
            Disk.make_folder(self, parent)
            Disk.make_folder(self, path)

    def write(self, path: StorePath, chunks: Iterable[bytes]) -> None:
        """Write a new file and sync its bytes. Its name is durable only after `sync_folder`.

        A file of this name is removed first, never written to: it may be a link of an object.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
            fd = os.open(name, flags, 0o644, dir_fd=fd)
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: StorePath, target: StorePath) -> None:
        with self.keep_folders() as folders:
            (old_fd, old), (new_fd, new) = folders.find(source), folders.find(target)
            os.link(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def symlink(self, content: str, path: StorePath) -> None:
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            os.symlink(content, name, dir_fd=fd)

    def set_link_time(self, path: StorePath, ns: int) -> None:
        """Set the modification time of a symbolic link itself, in nanoseconds since the epoch."""
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            os.utime(name, ns=(ns, ns), dir_fd=fd, follow_symlinks=False)

    def rename(self, source: StorePath, target: StorePath) -> None:
        """Rename atomically; an existing file is replaced."""
        with self.keep_folders() as folders:
            (old_fd, old), (new_fd, new) = folders.find(source), folders.find(target)
            os.replace(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)
            folders.forget(source)
            folders.forget(target)

    def unlink(self, path: StorePath) -> None:
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            os.unlink(name, dir_fd=fd)

    def remove_folder(self, path: StorePath) -> None:
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            os.rmdir(name, dir_fd=fd)
            folders.forget(path)

    def set_mode(self, path: StorePath, mode: int) -> None:
        """Set the mode of a file. Raises FileNotFoundError if the path leads to anything else."""
        self._set_mode(path, mode, stat.S_IFREG)

    def set_folder_mode(self, path: StorePath, mode: int) -> None:
        """Set the mode of a folder. Raises FileNotFoundError if the path leads to anything else."""
        self._set_mode(path, mode, stat.S_IFDIR)

    def _set_mode(self, path: StorePath, mode: int, kind: int) -> None:
        fd = self._open_kind(path, kind)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)  # fchmod(2) refuses a descriptor that permits neither read nor write
        finally:
            os.close(fd)

    def sync_folder(self, path: StorePath) -> None:
        """Make the names durable that were created, removed or renamed in the folder. '' = the root."""
        fd = self._open_to_read(path)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self) -> None:
        """Make everything on the file system durable: one syncfs(2), however many files."""
        fd = self._open_to_read("")
        try:
            if _libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), self.root.path)
        finally:
            os.close(fd)

    # Composed of the methods above.

    def write_whole(self, path: StorePath, chunks: Iterable[bytes]) -> None:
        """Replace a file atomically and durably: after a crash it is whole, or as before."""
        folder, slash, name = str(path).rpartition("/")
        aside = f"{folder}{slash}.{name}.new"
        self.write(aside, chunks)
        self.rename(aside, path)
        self.sync_folder(folder)

    def unlink_if_there(self, path: StorePath) -> bool:
        """Unlink the file. False if there was none."""
        try:
            self.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def remove_tree(self, path: StorePath) -> None:
        """Remove a file, or a folder with all below it, read-only ones too; an absent path is no error.

        Raises OSError with ENOTEMPTY where somebody keeps adding names.
        """
        path = str(path)
        if not self.is_folder(path):
            self.unlink_if_there(path)
            return
        raised = emptyings = 0
        with self.keep_folders():
            while True:
                raised_now = self._empty(path, path, 0)
                try:
                    self.remove_folder(path)
                except FileNotFoundError:
                    return
                except OSError as error:
                    raised, emptyings = raised + raised_now, emptyings + (not raised_now)
                    if error.errno != errno.ENOTEMPTY or raised > _MAX_RAISED or emptyings > _MAX_EMPTYINGS:
                        raise
                else:
                    return

    def _empty(self, folder: str, top: str, depth: int) -> int:
        """Remove what is in the folder. Returns the number of folders that were too deep and were moved to the top."""
        raised = 0
        with contextlib.suppress(FileNotFoundError):  # somebody else removed it, or put something else in its place
            if stat.S_IMODE(self.stat(folder).st_mode) & 0o700 != 0o700:
                self.set_folder_mode(folder, 0o755)
            for name, found in self.entries(folder):
                path = f"{folder}/{name}"
                if not stat.S_ISDIR(found.st_mode):
                    self.unlink_if_there(path)
                elif depth == _MAX_DEPTH:
                    self.rename(path, f"{top}/.{uuid.uuid4().hex}")
                    raised += 1
                else:
                    raised += self._empty(path, top, depth + 1)
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        self._remove_if_empty(path)
        return raised

    def _remove_if_empty(self, folder: str) -> None:
        try:
            self.remove_folder(folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise

    # Looks. None follows a symbolic link, and none opens what is neither a file nor a folder.

    def stat(self, path: StorePath) -> os.stat_result:
        """Stat what has this name: a link itself, if it is one."""
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def exists(self, path: StorePath) -> bool:
        """Check whether anything has this name."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def is_folder(self, path: StorePath) -> bool:
        try:
            return stat.S_ISDIR(self.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def links(self, found: os.stat_result) -> int:
        """Return the number of the file's names. A method, because a test's disk keeps removed files elsewhere."""
        return found.st_nlink

    def names(self, folder: StorePath) -> list[str]:
        """List the folder."""
        fd = self._open_to_read(folder)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def entries(self, folder: StorePath) -> list[tuple[str, os.stat_result]]:
        """List the folder, each name with its stat; names that vanish meanwhile are left out."""
        fd = self._open_to_read(folder)
        found = []
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(FileNotFoundError):
                    found.append((name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
        finally:
            os.close(fd)
        return found

    def walk(self, folder: StorePath) -> Iterator[tuple[str, os.stat_result]]:
        """Yield path and stat of all below the folder, a folder before what is in it; nothing if there is no folder."""
        pending = [str(folder)]
        while pending:
            above = pending.pop()
            with contextlib.suppress(FileNotFoundError):
                for name, found in self.entries(above):
                    path = f"{above}/{name}"
                    yield path, found
                    if stat.S_ISDIR(found.st_mode) and len(os.fsencode(path)) <= _MAX_OWN_PATH:
                        pending.append(path)

    def read_link(self, path: StorePath) -> str:
        """Read the content of a symbolic link."""
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            return os.readlink(name, dir_fd=fd)

    def open_file(self, path: StorePath) -> BinaryIO:
        """Open a file to read it. Raises FileNotFoundError if the path leads to anything else."""
        return os.fdopen(self.open_to_read(path), "rb")

    def open_to_read(self, path: StorePath, flags: int = 0) -> int:
        """Open a file to read it, as a descriptor. Raises FileNotFoundError if the path leads to anything else.

        flags: more of them, such as O_DIRECT.
        """
        fd = self._open_kind(path, stat.S_IFREG)
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            error.filename = f"{self.root.path}/{path}"
            raise
        finally:
            os.close(fd)

    def read(self, path: StorePath) -> bytes:
        with self.open_file(path) as file:
            return file.read()

    def open_folder(self, path: StorePath) -> int:
        """Open a folder in which names are looked up, as a descriptor."""
        return open_beneath(self.root.fd, str(path))

    def open_lock(self, path: StorePath) -> int:
        """Open a file for flock(2), as a descriptor; create it if it is missing."""
        with self.keep_folders() as folders:
            fd, name = folders.find(path)
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)

    def space(self) -> os.statvfs_result:
        """Ask how much space and how many inodes the file system has."""
        return os.statvfs(self.root.fd)

    def _open_kind(self, path: StorePath, kind: int) -> int:
        """Get a descriptor of what has this name, as O_PATH: nothing is opened yet, so that no device notices."""
        with self.keep_folders() as folders:
            above, name = folders.find(path)
            fd = open_beneath(above, name, os.O_PATH)
            if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
                os.close(fd)
                raise FileNotFoundError(errno.ENOENT, "something else is there", name)
            return fd

    def _open_to_read(self, folder: StorePath) -> int:
        path = str(folder) or "."
        try:
            return open_beneath(self.root.fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            error.filename = f"{self.root.path}/{path}"
            raise
