"""One object on its way to the disk: its ranges, its journal, and the verdict when all of them are there.

Knows files and checksums, not sockets and not threads: the scheduler's lock guards the counting, the finisher's thread
alone flushes the journal and judges.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from typing import Final

from kube_cache.dataset.checksums import Algorithm, DeclaredChecksum, combine
from kube_cache.dataset.transfer import FetchedObject, FetchJob, RemoteObject, Timings, Verified
from kube_cache.disk_faults import disk_fault
from kube_cache.engine.journal import Journal, Part
from kube_cache.engine.part_file import PartFile
from kube_cache.engine.ranges import Range, split
from kube_cache.engine.verify import Mismatch, check_object, combinable, crc_of_file, hash_file, md5_of
from kube_cache.errors import ChecksumMismatch
from kube_cache.origin.object_head import ObjectHead
from kube_cache.origin.stored_parts import StoredPart

_FLUSH_S: Final = 2.0
_FLUSH_BYTES: Final = 2 << 30


class ObjectState:
    """An open object. Opening resumes what its journal proves. Raises DiskFault."""

    def __init__(self, job: FetchJob, head: ObjectHead | None, parts: list[StoredPart], *, journaled: bool) -> None:
        """head: None for a small object, whose checksum comes with its only answer."""
        self.job = job
        self.remote = job.object if head is None else _with_version(job.object, head)
        self.generation = head.generation if head else None
        self.full_declared = head.checksum if head else None
        self.parts = parts
        self.declared: DeclaredChecksum | None = None
        self.aux: Algorithm | None = None
        self.timings = Timings()
        self.fetched_bytes = 0
        self.resumed_bytes = 0
        self.active = 0
        """Attempts that are at one of its ranges; guarded by the scheduler's lock."""
        self.abandoned = False
        """The call has failed: the last attempt closes the files; guarded by the same lock."""
        self.small = not journaled
        self._suspects: dict[int, tuple[int, Range]] | None = None
        self._unflushed = 0
        self._flushed_at = time.monotonic()
        self._to_journal: list[Range] = []
        self.declare(self.full_declared)
        self.file = PartFile(job.part_path, job.object.size)
        self.ranges = split(
            job.object.size, [part.size for part in parts] if self.declared and self.declared.parts else ()
        )
        self._journal: Journal | None = None
        if journaled:
            self._resume()
        self.left = sum(1 for each in self.ranges if each.done < each.length)

    @property
    def name(self) -> str:
        return self.remote.uri

    def declare(self, found: DeclaredChecksum | None) -> None:
        """The object's checksum, now that it is known."""
        self.full_declared = found
        self.declared = combinable(found, self.parts, self.job.object.size)
        algorithm = self.declared.algorithm if self.declared else Algorithm.CRC64NVME
        self.aux = None if algorithm == Algorithm.CRC64NVME else algorithm

    def missing(self) -> list[Range]:
        return [each for each in self.ranges if each.done < each.length]

    def preallocated_bytes(self) -> int:
        """Blocks that the disk has given for bytes yet to come."""
        return self.file.preallocated_bytes(sum(each.done for each in self.ranges))

    def drop_version(self) -> bool:
        """Go on without the version that HEAD told, for who may read objects but not versions; False: there was none."""
        if self.remote.version_id is None or self.remote.version_id == self.job.object.version_id:
            return False
        self.remote = replace(self.remote, version_id=self.job.object.version_id)
        return True

    def note(self, done: Range) -> None:
        """A finished range is to be journaled; from the worker that finished it."""
        self._to_journal.append(done)

    # By the finisher's thread.

    def flush_due(self) -> None:
        """Make finished ranges durable every 2 s or 2 GiB: the most that a crash costs. Raises DiskFault."""
        self._drain()
        if self._unflushed and (time.monotonic() - self._flushed_at >= _FLUSH_S or self._unflushed >= _FLUSH_BYTES):
            self.flush()

    def flush(self) -> None:
        self._drain()
        if self._journal is None:
            return
        try:
            self._journal.flush(self.file.fd)
        except OSError as error:
            raise disk_fault(error, self.job.journal_path) from error
        self._flushed_at, self._unflushed = time.monotonic(), 0

    def _drain(self) -> None:
        while self._to_journal and self._journal is not None:
            done = self._to_journal.pop()
            self._journal.add(Part(done.number, done.length, done.crc64, done.aux))
            self._unflushed += done.length

    def verify(self, *, hashes: bool) -> tuple[FetchedObject | None, list[Range]]:
        """With all ranges there: the proven object; or None and the ranges to fetch once more.

        Raises ChecksumMismatch when that was done already, naming object, part and both checksums.
        """
        verified, mismatch = check_object(self.declared, self.ranges, self.parts)
        if mismatch is None and verified is Verified.TRANSPORT_ONLY and hashes:
            verified, mismatch = self._by_hash()
        if mismatch is not None:
            return None, self._refetch(mismatch)
        whole = combine(Algorithm.CRC64NVME, ((each.crc64, each.length) for each in self.ranges))
        done = FetchedObject(self.job, whole, verified, self.fetched_bytes, self.resumed_bytes, self.timings)
        return done, []

    def _by_hash(self) -> tuple[Verified, Mismatch | None]:
        """SHA or MD5, for which the file is read again."""
        declared = self.full_declared
        if declared is not None and declared.algorithm in {Algorithm.SHA1, Algorithm.SHA256}:
            sizes = [part.size for part in self.parts] if declared.parts else []
            if declared.parts and len(sizes) != declared.parts:
                return Verified.TRANSPORT_ONLY, None
            actual = hash_file(self.job.part_path, str(declared.algorithm), sizes)
            mismatch = None if actual == declared.value else Mismatch(None, actual.hex(), declared.value.hex())
            return (Verified.COMPOSITE if declared.parts else Verified.FULL_OBJECT), mismatch
        if (expected := md5_of(self.remote.etag)) and hash_file(self.job.part_path, "md5") == expected:
            return Verified.MD5, None
        # Not equal proves nothing: with SSE-KMS, SSE-C and on other stores an ETag of 32 digits is no MD5.
        return Verified.TRANSPORT_ONLY, None

    def _refetch(self, mismatch: Mismatch) -> list[Range]:
        """The ranges that may be wrong, once: those of the part, or all when only the whole is known to be."""
        asked = [each for each in self.ranges if mismatch.part is None or each.part == mismatch.part]
        if self._suspects is not None and all(each.number in self._suspects for each in asked):
            raise self._mismatch(mismatch, asked)
        self._suspects = {**(self._suspects or {}), **{each.number: (each.crc64, each) for each in asked}}
        if self._journal is not None:
            self._drain()
            self._journal.forget({each.number for each in asked})
        for each in asked:
            each.restart()
        self.left = len(asked)
        return asked

    def _mismatch(self, mismatch: Mismatch, asked: list[Range]) -> ChecksumMismatch:
        differing = [each.number for each in asked if (self._suspects or {})[each.number][0] != each.crc64]
        if mismatch.part is not None:
            where = f"part {mismatch.part + 1} of {len(self.parts)}"
        elif len(self.ranges) == 1:
            where = "part 1 of 1"
        elif differing:
            where = (
                f"ranges {', '.join(map(str, differing[:8]))} of {len(self.ranges)}, which came differently each time"
            )
        else:
            where = f"all {len(self.ranges)} ranges came the same both times, so some part of the stored object"
        algorithm = self.full_declared.algorithm.upper() if self.full_declared else "checksum"
        return ChecksumMismatch(
            f"{self.name}: {where}: fetched twice, {algorithm} is {mismatch.actual} but the store declares {mismatch.expected};"
            " upload the object again, or check the path to the store",
            bucket=self.remote.bucket,
            key=self.remote.key,
            actual=mismatch.actual,
            expected=mismatch.expected,
        )

    def close(self) -> None:
        """Keeps file and journal for a resume. Not while an attempt may still write."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.file.close()

    def _resume(self) -> None:
        try:
            self._journal = Journal(self.job.journal_path, self._identity())
            if not self.file.was_sized:  # the file that the journal speaks of is gone
                self._journal.forget(set(self._journal.parts))
        except OSError as error:
            self.file.close()
            raise disk_fault(error, self.job.journal_path) from error
        for each in self.ranges:
            part = self._journal.parts.get(each.number)
            if part is None or part.length != each.length:
                continue
            if self.declared is None and crc_of_file(self.job.part_path, each.offset, each.length) != part.crc64:
                continue  # no checksum of the store will ever tell, so the disk is asked
            each.done, each.crc64, each.aux = each.length, part.crc64, part.other
            self.resumed_bytes += each.length

    def _identity(self) -> dict[str, str | int | None]:
        return {
            "engine": 2,
            "uri": self.name,
            "version": self.remote.version_id,
            "generation": self.generation,
            "etag": self.remote.etag,
            "size": self.remote.size,
            "declared": str(self.full_declared) if self.full_declared else None,
            "layout": zlib.crc32(",".join(str(each.offset) for each in self.ranges).encode()),
            "inode": self.file.inode,
        }


def _with_version(found: RemoteObject, head: ObjectHead) -> RemoteObject:
    version = found.version_id or (head.version_id if head.version_id != "null" else None)
    return replace(found, version_id=version)
