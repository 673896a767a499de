"""The journal of one object being fetched: which parts are durable, with their checksums, so that a restart resumes.

A header that identifies the object, then one 24-byte record per finished part. Records are held back until the data they
speak of was synced: `fdatasync(data)` first, then append and `fdatasync(journal)`. So a record never promises more than
the disk holds, and a crash costs at most one interval. A torn or foreign journal is worth nothing and is started anew.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

# part number, length, CRC64NVME, second checksum (of the object's own kind, 0 where that is CRC64NVME), CRC of the record
_RECORD = struct.Struct("<IIQII")
_HEADER = struct.Struct("<8sII")  # magic, length of the identity, its CRC
_MAGIC = b"kcjrnl1\0"


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    length: int
    crc64: int
    other: int = 0


class Journal:
    """Not thread-safe: the object that owns it holds a lock."""

    def __init__(self, path: Path, identity: dict[str, str | int | None]) -> None:
        """Opens or starts it. `parts` holds what a journal of this very identity proves. Raises OSError."""
        self._path = path
        self._pending: list[Part] = []
        blob = json.dumps(identity, sort_keys=True).encode()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.parts: dict[int, Part] = {}
        try:
            head = _HEADER.pack(_MAGIC, len(blob), zlib.crc32(blob)) + blob
            data = _read_all(self._fd)
            if data.startswith(head):
                good = self._load(data, len(head))
                os.ftruncate(self._fd, good)
            else:
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, head, 0)
                os.fdatasync(self._fd)
                good = len(head)
            self._end = good
        except BaseException:
            os.close(self._fd)
            raise

    def _load(self, data: bytes, offset: int) -> int:
        while offset + _RECORD.size <= len(data):
            number, length, crc64, other, check = _RECORD.unpack_from(data, offset)
            if check != zlib.crc32(data[offset : offset + _RECORD.size - 4]):
                break  # torn by a crash: what follows was never promised
            self.parts[number] = Part(number, length, crc64, other)
            offset += _RECORD.size
        return offset

    def add(self, part: Part) -> None:
        """Note a part whose bytes are written; it counts after a restart only once `flush` has run."""
        self.parts[part.number] = part
        self._pending.append(part)

    def forget(self, numbers: set[int]) -> None:
        """Parts that turned out wrong: written anew without them."""
        kept = [part for number, part in self.parts.items() if number not in numbers]
        self.parts = {part.number: part for part in kept}
        self._pending = kept
        header_end = _HEADER.size + _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))[1]
        os.ftruncate(self._fd, header_end)
        self._end = header_end

    def flush(self, data_fd: int) -> None:
        """Make the noted parts durable: the data first. Raises OSError."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            os.fdatasync(data_fd)
            records = b"".join(_pack(part) for part in pending)
            os.pwrite(self._fd, records, self._end)
            os.fdatasync(self._fd)
        except BaseException:
            self._pending = pending + self._pending
            raise
        self._end += len(records)

    def close(self) -> None:
        os.close(self._fd)


def _pack(part: Part) -> bytes:
    body = _RECORD.pack(part.number, part.length, part.crc64, part.other, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
