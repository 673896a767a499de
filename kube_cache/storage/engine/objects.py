"""One object on its way to the disk: its parts, what is done, its checksum, its journal.

Workers fetch parts; this keeps the books and gives the verdict. It knows files and checksums, not sockets.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from dataclasses import dataclass

from kube_cache.errors import ChecksumMismatch
from kube_cache.storage.checksums import Algorithm, Declared, combine, encoded, is_crc
from kube_cache.storage.engine.files import PartFile, disk_fault
from kube_cache.storage.journal import Journal, Part
from kube_cache.storage.transfer import FetchedObject, FetchJob, Timings, Verified

MIB = 1 << 20
_FLUSH_S = 2.0
_FLUSH_BYTES = 2 << 30


def part_size(size: int) -> int:
    """Bytes per range: also the unit of the journal and of retries."""
    if size < 256 * MIB:
        return 8 * MIB
    return 16 * MIB if size <= 64 << 30 else 64 * MIB


@dataclass(slots=True)
class Range:
    """A part to fetch."""

    number: int
    offset: int
    length: int


class ObjectState:
    def __init__(self, job: FetchJob, declared: Declared | None) -> None:
        """Opens file and journal; resumes what the journal proves. Raises DiskFault."""
        self.job = job
        self.declared = declared
        self.size = job.object.size
        self.part = part_size(self.size)
        if declared is not None and (declared.parts or not is_crc(declared.algorithm)):
            declared = self.declared = None  # composite ones need the uploaded parts: not in this form yet
        self.other = declared.algorithm if declared and declared.algorithm != Algorithm.CRC64NVME else None
        self.timings = Timings()
        self.fetched = 0
        self._lock = threading.Lock()
        self._flushed_at = time.monotonic()
        self._unflushed = 0
        self._rechecked = False
        self.file = PartFile(job.part_path, self.size)
        try:
            self._journal = Journal(job.journal_path, self._identity())
        except OSError as error:
            self.file.close()
            raise disk_fault(error, job.journal_path) from error
        self.resumed = sum(part.length for part in self._journal.parts.values())
        self._missing = [one for one in self._ranges() if one.number not in self._journal.parts]
        self._open = len(self._missing)

    def _identity(self) -> dict[str, str | int | None]:
        obj = self.job.object
        return {
            "engine": 1,
            "uri": f"{obj.scheme}://{obj.bucket}/{obj.key}",
            "version": obj.version_id,
            "etag": obj.etag,
            "size": obj.size,
            "part": self.part,
            "declared": str(self.declared) if self.declared else None,
        }

    def _ranges(self) -> list[Range]:
        return [
            Range(number, offset, min(self.part, self.size - offset))
            for number, offset in enumerate(range(0, self.size, self.part))
        ]

    def ranges(self) -> list[Range]:
        """What must be fetched, in order."""
        return list(self._missing)

    def finished(self, one: Range, crc64: int, other: int) -> bool:
        """Note a part whose bytes are written; True when it was the last. Raises DiskFault."""
        with self._lock:
            self._journal.add(Part(one.number, one.length, crc64, other))
            self._unflushed += one.length
            self._open -= 1
            last = self._open == 0
            if not last and (time.monotonic() - self._flushed_at >= _FLUSH_S or self._unflushed >= _FLUSH_BYTES):
                self._flush()
            return last

    def _flush(self) -> None:
        try:
            self._journal.flush(self.file.fd)
        except OSError as error:
            raise disk_fault(error, self.job.journal_path) from error
        self._flushed_at, self._unflushed = time.monotonic(), 0

    def verdict(self) -> FetchedObject | list[Range]:
        """With all parts there: the proven object, its bytes durable; or the ranges to fetch once more.

        Raises ChecksumMismatch when that was done already, naming the object and both checksums.
        """
        parts = [self._journal.parts[number] for number in sorted(self._journal.parts)]
        whole = combine(Algorithm.CRC64NVME, [(part.crc64, part.length) for part in parts])
        verified, actual = self._compare(parts, whole)
        if actual is not None:
            return self._once_more(parts, actual)
        with self._lock:
            self._flush()
        self.file.sync()
        return FetchedObject(self.job, whole, verified, self.fetched, self.resumed, self.timings)

    def _compare(self, parts: list[Part], whole: int) -> tuple[Verified, str | None]:
        """(how it was verified, None) or (…, the checksum that we have instead of the declared one)."""
        declared = self.declared
        if declared is None:
            return Verified.TRANSPORT_ONLY, None
        full = whole
        if self.other is not None:
            full = combine(self.other, [(part.other, part.length) for part in parts])
        actual = encoded(declared.algorithm, full)
        return Verified.FULL_OBJECT, None if actual == declared.value else base64.b64encode(actual).decode()

    def _once_more(self, parts: list[Part], actual: str) -> list[Range]:
        """A whole-object checksum does not tell which part is wrong: each is fetched and written again, once."""
        obj = self.job.object
        declared = self.declared
        if self._rechecked or declared is None:
            raise ChecksumMismatch(
                f"{obj.scheme}://{obj.bucket}/{obj.key}: fetched twice, its checksum is {actual}, "
                f"but the object store declares {declared}; upload it again, or check the path to the store",
                bucket=obj.bucket,
                key=obj.key,
            )
        self._rechecked = True
        self._journal.forget({part.number for part in parts})
        ranges = self._ranges()
        self._open = len(ranges)
        return ranges

    def close(self) -> None:
        """Keeps file and journal for a resume; what was noted becomes durable if the disk still lets it."""
        with self._lock:
            with contextlib.suppress(OSError):  # those parts are fetched again
                self._journal.flush(self.file.fd)
            self._journal.close()
            self.file.close()
