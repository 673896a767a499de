"""Brings a dataset into a plain directory by the transfer engine: resumed after a kill, verified, each file whole.

What is not finished lies in a hidden folder of the directory, as a part and a journal of the engine. A file gets its
name when all of its bytes are verified and durable, so whatever has a name is whole; the dataset as a whole is complete
when `download` returns. For readers that must never see half of a dataset there is the store (docs/design/fetch.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kube_cache.dataset.checksums import BASE
from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress, TransferEngine, Verified, weakest
from kube_cache.directory.record import Landed, Record
from kube_cache.disk_faults import disk_fault
from kube_cache.errors import Cancelled, InsufficientDisk, StoreConflict, UnsafeKey
from kube_cache.units import format_bytes

FOLDER: Final = ".kube-cache-fetch"
"""Of what is not finished, and of the record; stays, so that a second fetch knows what is there."""
_READ_BYTES: Final = 4 << 20


@dataclass(slots=True)
class DirectoryResult:
    files: int
    bytes: int
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    """Of an earlier fetch that did not end: verified again, and not fetched."""
    present_bytes: int = 0
    """Of files that were complete before."""
    removed_files: int = 0
    """Files of an earlier version of the dataset, which this version has not."""
    verified: str = Verified.FULL_OBJECT
    """The weakest verification among the files."""
    seconds: float = 0.0


def download(
    directory: Path,
    manifest: Manifest,
    engine: TransferEngine,
    *,
    progress: Callable[[FetchProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    reread: bool = False,
) -> DirectoryResult:
    """Bring what is missing. reread: also read the files that are there against their checksums.

    Files that nobody fetched by this function are left alone, unless the dataset has a file of that name. Raises what
    `TransferEngine.fetch` raises, UnsafeKey, InsufficientDisk, StoreConflict (something else is in the way).
    """
    began = time.monotonic()
    if taken := next((each for each in manifest.objects if each.path.split("/")[0] == FOLDER), None):
        raise UnsafeKey(f"{taken.uri}: {FOLDER} is the name of this program's own folder; rename the object")
    try:
        with _alone(directory) as work:
            record = Record(work / "record", str(manifest.uri).rstrip("/"))
            try:
                result = _Download(directory, work, record, manifest, cancelled).run(engine, progress, reread=reread)
            finally:
                record.close()
    except OSError as error:
        raise disk_fault(error, directory) from error
    result.seconds = time.monotonic() - began
    return result


@contextmanager
def _alone(directory: Path) -> Iterator[Path]:
    """Make the directory and its hidden folder, and keep other fetches out. Yields the folder. Raises StoreConflict."""
    work = directory / FOLDER
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreConflict(f"{directory}: another fetch writes there; wait for it, or stop it") from None
        yield work


class _Download:
    def __init__(
        self, directory: Path, work: Path, record: Record, manifest: Manifest, cancelled: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._work = work
        self._record = record
        self._manifest = manifest
        self._cancelled = cancelled
        self._result = DirectoryResult(len(manifest.objects), manifest.total_bytes)
        mask = os.umask(0)
        os.umask(mask)
        self._mode = 0o666 & ~mask
        self._folders: set[Path] = {directory}
        """Folders whose names have changed."""

    def run(
        self, engine: TransferEngine, progress: Callable[[FetchProgress], None], *, reread: bool
    ) -> DirectoryResult:
        objects = {each.path: each for each in self._manifest.objects}
        self._remove_former(objects)
        missing = [each for each in objects.values() if not self._is_present(each, reread=reread)]
        present = self._manifest.total_bytes - sum(each.size for each in missing)
        self._result.present_bytes = present
        jobs = [self._job(each) for each in missing]
        self._clear_work(jobs)
        self._check_room(jobs)
        total = self._manifest.total_bytes
        if jobs:
            engine.fetch(
                jobs,
                on_object=self._land,
                progress=lambda now: progress(FetchProgress(present + now.done_bytes, total, now.bytes_per_s)),
                cancelled=self._cancelled,
            )
        for folder in self._folders:
            _sync(folder)
        self._record.rewrite(self._record.landed[path] for path in objects)
        self._result.verified = weakest(Verified(each.verified) for each in self._record.landed.values())
        return self._result

    def _is_present(self, remote: RemoteObject, *, reread: bool) -> bool:
        landed = self._record.landed.get(remote.path)
        if landed is None or (landed.pin, landed.size) != (remote.pin, remote.size):
            return False
        return landed.is_there(self._directory) and (not reread or self._crc(landed) == landed.crc64nvme)

    def _crc(self, landed: Landed) -> int:
        """Compute the file's checksum. Raises Cancelled."""
        update, crc = BASE.update, 0
        with (self._directory / landed.path).open("rb") as handle:
            # Not from the page cache, which would hide that the disk has lost the bytes.
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := handle.read(_READ_BYTES):
                if self._cancelled():
                    raise Cancelled("cancelled while reading; what was verified is kept")
                crc = update(piece, crc)
        return crc

    def _job(self, remote: RemoteObject) -> FetchJob:
        # By the path, since the journal itself knows the version that it is of.
        name = hashlib.sha256(remote.path.encode()).hexdigest()
        return FetchJob(remote, self._work / f"{name}.part", self._work / f"{name}.journal")

    def _clear_work(self, jobs: list[FetchJob]) -> None:
        """Remove what an earlier fetch has left of objects that are not fetched now."""
        wanted = {path.name for job in jobs for path in (job.part_path, job.journal_path)}
        for path in self._work.iterdir():
            if path.suffix in {".part", ".journal"} and path.name not in wanted:
                path.unlink()

    def _check_room(self, jobs: list[FetchJob]) -> None:
        """Raises InsufficientDisk."""
        needed = 0
        for job in jobs:
            with suppress(FileNotFoundError):
                needed -= min(job.object.size, job.part_path.stat().st_blocks * 512)
            needed += job.object.size
        usage = os.statvfs(self._directory)
        free = usage.f_bavail * usage.f_frsize
        if needed > free:
            raise InsufficientDisk(
                f"{self._manifest.uri} needs {format_bytes(needed)} more in {self._directory}, and its file system has"
                f" {format_bytes(free)} free; make room, or name a directory on another disk",
                needed=needed,
                free=free,
            )

    def _land(self, fetched: FetchedObject) -> None:
        """Give the file its name. From the engine's thread, one object at a time."""
        remote, part = fetched.job.object, fetched.job.part_path
        target = self._directory / remote.path
        status = part.stat()
        part.chmod(self._mode)
        self._record.add(
            Landed(
                remote.path, remote.pin, remote.size, fetched.crc64nvme, str(fetched.verified),
                status.st_ino, status.st_mtime_ns,
            )
        )  # fmt: skip
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise StoreConflict(
                f"{target}: something else is in its way; move it, or name another directory"
            ) from error
        fetched.job.journal_path.unlink(missing_ok=True)
        self._folders.add(target.parent)
        self._result.fetched_bytes += fetched.fetched_bytes
        self._result.resumed_bytes += fetched.resumed_bytes

    def _remove_former(self, objects: dict[str, RemoteObject]) -> None:
        """Remove the files that an earlier version of the dataset had and this one has not, if they are unchanged."""
        for path, landed in self._record.landed.items():
            if path not in objects and landed.is_there(self._directory):
                target = self._directory / path
                target.unlink()
                self._result.removed_files += 1
                self._folders.add(target.parent)
                for folder in target.parents:
                    if folder == self._directory or any(folder.iterdir()):
                        break
                    folder.rmdir()
                    self._folders.discard(folder)
                    self._folders.add(folder.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
