"""One object on its way to the disk: its ranges, its journal, and its verification when all ranges are there.

Knows files and checksums, but neither sockets nor threads. The engine's lock guards the counts; only the finisher's
thread flushes the journal and verifies.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from kube_cache.dataset.checksums import BASE, Algorithm, DeclaredChecksum, Proof
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import ObjectHead, StoredPart
from kube_cache.dataset.transfer import FetchedObject, FetchJob, Timings, Verified
from kube_cache.disk_faults import disk_fault
from kube_cache.engine.journal import DoneRange, Journal
from kube_cache.engine.part_file import PartFile
from kube_cache.engine.planned import Planned
from kube_cache.engine.ranges import Range, split
from kube_cache.engine.tracing import ObjectTrace
from kube_cache.engine.verify import Mismatch, check_object, combinable_checksum, hash_file, md5_of
from kube_cache.errors import ChecksumMismatch

_FLUSH_S: Final = 2.0
_FLUSH_BYTES: Final = 2 << 30
"""The journal is flushed after so many seconds or bytes; a crash loses no more. Each flush costs two fdatasync."""


class Phase(Enum):
    """Whose turn an object is. `WorkQueue` alone sets the phase, under the engine's lock."""

    FETCHING = auto()
    """The workers': some ranges are missing, or an attempt at one goes on."""
    WHOLE = auto()
    """The finisher's: all ranges are complete and no attempt goes on. No range is dealt in this phase."""


class ObjectState:
    def __init__(self, job: FetchJob, head: ObjectHead | None, parts: list[StoredPart], *, journaled: bool) -> None:
        """Open the object's file and journal, and note the ranges that the journal claims. Raises DiskFault.

        head: None for a small object, whose checksum comes with its only response.
        """
        self.job = job
        self.remote = job.object if head is None else _with_version(job.object, head)
        self.generation = head.generation if head else None
        self.parts = parts
        self.declared: DeclaredChecksum | None
        """The checksum that the object store declares."""
        self.combinable: DeclaredChecksum | None
        """The same, if the CRCs of the ranges can be combined to it."""
        self.aux: Proof | None
        """The object's own proof, which ranges compute besides `BASE`; None where that is the object's."""
        self.timings = Timings()
        self.planned = Planned(job.plan) if job.plan is not None and journaled and job.object.size else None
        """None where the origin alone has the object."""
        self.trace: ObjectTrace | None = None
        """None unless the object is traced."""
        self.fetched_bytes = 0
        self.resumed_bytes = 0
        self.phase = Phase.FETCHING
        self.active = 0
        """Attempts at the object's ranges; guarded by the engine's lock."""
        self.abandoned = False
        """The call has failed, so that the last attempt closes the files; guarded by the engine's lock."""
        self.small = not journaled
        self._refetched: dict[int, int] | None = None
        """`BASE` of the first fetch, by the number of the range; None before a mismatch."""
        self._unflushed_bytes = 0
        self._flushed_at = time.monotonic()
        self._to_journal: list[Range] = []
        self.declare(head.checksum if head else None)
        self.file = PartFile(job.part_path, job.object.size)
        self.ranges = split(
            job.object.size,
            [part.size for part in parts] if self.combinable and self.combinable.parts else (),
            self.planned.plan.range_bytes(job.object.size) if self.planned else None,
        )
        self._journal: Journal | None = None
        if journaled:
            try:
                self._resume()
            except BaseException:
                self.close()
                raise
        self.left = len(self.missing())
        """Ranges that are not complete; guarded by the engine's lock."""

    @property
    def name(self) -> str:
        return self.remote.uri

    def declare(self, checksum: DeclaredChecksum | None) -> None:
        """Set the object's checksum as the object store declares it."""
        self.declared = checksum
        if checksum is not None and checksum.parts == 1 and not self.parts:
            self.parts = [StoredPart(self.job.object.size, b"")]  # no request need tell
        self.combinable = combinable_checksum(checksum, self.parts, self.job.object.size)
        proof = self.combinable.proof if self.combinable else None
        self.aux = None if proof is BASE else proof

    def lacks_parts(self, *, hashes: bool) -> bool:
        """Check whether a small object's checksum takes the sizes of its stored parts, which nobody has asked for.

        hashes: checksums other than CRCs count, too.
        """
        declared = self.declared
        if not self.small or declared is None or declared.parts < 2 or self.parts:
            return False
        return hashes or declared.proof is not None

    def split_by_parts(self, parts: list[StoredPart]) -> list[Range]:
        """Split a small object, which is complete, by its stored parts; return the ranges whose CRCs are to be read.

        Returns [] if the parts do not help: they are not told, or belong to a checksum that is no CRC.
        """
        self.parts = parts
        self.declare(self.declared)
        if self.combinable is None:
            return []
        self.ranges = split(self.job.object.size, [part.size for part in parts])
        return self.ranges

    def missing(self) -> list[Range]:
        """The ranges that are not complete. Those that a journal claims come first, since they cost no request."""
        missing = [byte_range for byte_range in self.ranges if not byte_range.is_complete]
        return sorted(missing, key=lambda byte_range: byte_range.claimed is None)

    def preallocated_bytes(self) -> int:
        """Return the bytes of blocks that the disk has allocated for data yet to come."""
        return self.file.preallocated_bytes(sum(byte_range.done for byte_range in self.ranges))

    def drop_version(self) -> bool:
        """Go on by ETag alone, without the version that HEAD told; False if there was none to drop.

        For credentials that may read objects but not versions.
        """
        if self.remote.version_id is None or self.remote.version_id == self.job.object.version_id:
            return False
        self.remote = replace(self.remote, version_id=self.job.object.version_id)
        return True

    def note(self, byte_range: Range) -> None:
        """Queue a complete range for the journal. For the worker's thread."""
        self._to_journal.append(byte_range)

    def close(self) -> None:
        """Close the files and keep them for a resume. No attempt may write any more."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.file.close()

    # For the finisher's thread.

    def flush_if_due(self) -> None:
        """Flush the journal if its time or its bytes have come. Raises DiskFault."""
        self._drain()
        due = time.monotonic() - self._flushed_at >= _FLUSH_S or self._unflushed_bytes >= _FLUSH_BYTES
        if self._unflushed_bytes and due:
            self.flush()

    def flush(self) -> None:
        """Make the complete ranges durable: data, then journal. Raises DiskFault."""
        self._drain()
        if self._journal is None:
            return
        try:
            self._journal.flush(self.file.fd)
        except OSError as error:
            raise disk_fault(error, self.job.journal_path) from error
        self._flushed_at, self._unflushed_bytes = time.monotonic(), 0

    def verify(self, *, hashes: bool) -> tuple[FetchedObject | None, list[Range]]:
        """Verify the object, whose ranges are all complete; return it, or None and the ranges to fetch once more.

        hashes: read the file again for a SHA or MD5. Raises ChecksumMismatch if the ranges were fetched twice already,
        DiskFault.
        """
        verified, mismatch = check_object(self.combinable, self.ranges, self.parts)
        if mismatch is None and verified is Verified.TRANSPORT_ONLY and hashes:
            verified, mismatch = self._verify_by_hash()
        if mismatch is not None:
            return None, self._refetch(mismatch)
        base = BASE.combine((r.base, r.length) for r in self.ranges)
        neighbours: Mapping[str, int] = {}
        if self.planned is not None:
            self.planned.acquit(self.ranges)
            neighbours = self.planned.bytes_by_neighbour(self.ranges)
            if verified is Verified.TRANSPORT_ONLY and self.planned.from_neighbours:
                verified = Verified.PEER_SAMPLED
        fetched = FetchedObject(
            self.job, base, verified, self.fetched_bytes, self.resumed_bytes, self.timings, neighbours
        )
        return fetched, []

    def _drain(self) -> None:
        """Add the queued ranges to the journal."""
        while self._to_journal and self._journal is not None:
            byte_range = self._to_journal.pop()
            neighbours = self.planned.from_neighbours if self.planned is not None else ()
            self._journal.add(
                DoneRange(
                    byte_range.number,
                    byte_range.length,
                    byte_range.base,
                    byte_range.aux,
                    byte_range.number in neighbours,
                )
            )
            self._unflushed_bytes += byte_range.length

    def _verify_by_hash(self) -> tuple[Verified, Mismatch | None]:
        declared = self.declared
        if declared is not None and declared.algorithm in {Algorithm.SHA1, Algorithm.SHA256}:
            sizes = [part.size for part in self.parts] if declared.parts else []
            if declared.parts and len(sizes) != declared.parts:
                return Verified.TRANSPORT_ONLY, None
            actual = hash_file(self.job.part_path, str(declared.algorithm), sizes)
            mismatch = None if actual == declared.value else Mismatch(None, actual.hex(), declared.value.hex())
            return (Verified.COMPOSITE if declared.parts else Verified.FULL_OBJECT), mismatch
        if (expected := md5_of(self.remote.etag)) and hash_file(self.job.part_path, "md5") == expected:
            return Verified.MD5, None
        # A difference proves nothing: with SSE-KMS, SSE-C and on other servers an ETag of 32 digits is no MD5.
        return Verified.TRANSPORT_ONLY, None

    def _refetch(self, mismatch: Mismatch) -> list[Range]:
        """Reset the ranges that may be wrong and return them: those of the part that differs, else all.

        Of these, only what neighbours sent, if there is any: the origin's bytes are the better proven ones. Raises
        ChecksumMismatch if all of them were refetched before.
        """
        suspects = [r for r in self.ranges if mismatch.part is None or r.part == mismatch.part]
        if self.planned is not None and (sent := self.planned.suspect(suspects)):
            return self._reset(sent)
        if self._refetched is not None and all(r.number in self._refetched for r in suspects):
            raise self._checksum_mismatch(mismatch, suspects, self._refetched)
        self._refetched = {**(self._refetched or {}), **{r.number: r.base for r in suspects}}
        return self._reset(suspects)

    def _reset(self, suspects: list[Range]) -> list[Range]:
        if self._journal is not None:
            self._drain()
            self._journal.forget({r.number for r in suspects})
        for byte_range in suspects:
            byte_range.restart()
        self.left = len(suspects)
        return suspects

    def _checksum_mismatch(
        self, mismatch: Mismatch, suspects: Sequence[Range], first_crcs: dict[int, int]
    ) -> ChecksumMismatch:
        differing = [r.number for r in suspects if first_crcs[r.number] != r.base]
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
        algorithm = self.declared.algorithm.upper() if self.declared else "checksum"
        return ChecksumMismatch(
            f"{self.name}: {where}: fetched twice, {algorithm} is {mismatch.actual} but the object store declares"
            f" {mismatch.expected}; upload the object again, or check the path to the object store",
            bucket=self.remote.bucket,
            key=self.remote.key,
            actual=mismatch.actual,
            expected=mismatch.expected,
        )

    def _resume(self) -> None:
        try:
            self._journal = Journal(self.job.journal_path, self._identity())
            if not self.file.was_sized:  # the file that the journal describes is gone
                self._journal.forget(set(self._journal.ranges))
        except OSError as error:
            raise disk_fault(error, self.job.journal_path) from error
        for byte_range in self.ranges:
            done = self._journal.ranges.get(byte_range.number)
            if done is None or done.length != byte_range.length:
                continue
            if done.from_neighbour:
                if self.planned is None:
                    continue  # without neighbours now, all is to come from the origin
                self.planned.from_neighbours[byte_range.number] = None
            byte_range.claimed = done.base

    def _identity(self) -> dict[str, str | int | None]:
        """Return what a journal must agree with: the object's version, its ranges, and the file on the disk."""
        return {
            "engine": 2,
            "uri": self.name,
            "version": self.remote.version_id,
            "generation": self.generation,
            "etag": self.remote.etag,
            "size": self.remote.size,
            "declared": str(self.declared) if self.declared else None,
            "layout": zlib.crc32(",".join(str(byte_range.offset) for byte_range in self.ranges).encode()),
            "inode": self.file.inode,
        }


def _with_version(remote: RemoteObject, head: ObjectHead) -> RemoteObject:
    version = remote.version_id or (head.version_id if head.version_id != "null" else None)
    return replace(remote, version_id=version)
