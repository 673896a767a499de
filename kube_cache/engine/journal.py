"""The journal of one object that is being fetched: its durable ranges with their checksums, so that a restart resumes.

A header that identifies the object, then one record of 24 bytes for each finished range. Records are held back until
their data is synced: `fdatasync(data)`, then append, then `fdatasync(journal)`. So a record never promises more than
the disk holds, and a crash costs at most one interval of flushing. A torn record ends the journal; the journal of
another object is started anew.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from kube_cache.engine import files

_RECORD = struct.Struct("<IIQII")
"""The fields of `DoneRange`, then the CRC32 of the record."""
_FROM_NEIGHBOUR = 1 << 31
"""Set in the number of a range that a neighbour sent. A build that knows no neighbours then takes it for none of its
ranges, and fetches it from the origin."""
_HEADER = struct.Struct("<8sII")
"""Magic, length of the identity in bytes, CRC32 of the identity; the identity as JSON follows."""
_MAGIC = b"kcjrnl1\0"


class DoneRange(NamedTuple):
    """A range whose bytes are in the file.

    base: its `checksums.BASE`. aux: the same in the object's own proof, 0 where that is `BASE`. from_neighbour: only
    the object's checksum proves the bytes.
    """

    number: int
    length: int
    base: int
    aux: int = 0
    from_neighbour: bool = False


class Journal:
    """Not thread-safe: only the finisher's thread uses the journal of an open object."""

    def __init__(self, path: Path, identity: dict[str, str | int | None]) -> None:
        """Open the journal, or start it anew if it is that of another identity. Raises OSError."""
        self.ranges: dict[int, DoneRange] = {}
        """By number: the durable ranges when the journal was opened, and those added since."""
        self._path = path
        self._pending: list[DoneRange] = []
        blob = json.dumps(identity, sort_keys=True).encode()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            header = _HEADER.pack(_MAGIC, len(blob), zlib.crc32(blob)) + blob
            data = _read_all(self._fd)
            if data.startswith(header):
                self._end = self._load(data, len(header))
                files.FILES.resize(self._fd, self._end)
            else:
                files.FILES.resize(self._fd, 0)
                files.FILES.write(self._fd, header, 0)
                files.FILES.sync(self._fd)
                self._end = len(header)
        except BaseException:
            os.close(self._fd)
            raise

    def add(self, done: DoneRange) -> None:
        """Note a range whose bytes are written. Only `flush` makes the note survive a restart."""
        self.ranges[done.number] = done
        self._pending.append(done)

    def forget(self, numbers: AbstractSet[int]) -> None:
        """Remove ranges that turned out wrong; the next `flush` writes the others anew. Raises OSError."""
        kept = [done for number, done in self.ranges.items() if number not in numbers]
        self.ranges = {done.number: done for done in kept}
        self._pending = kept
        _, blob_length, _ = _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))
        header_end = _HEADER.size + blob_length
        files.FILES.resize(self._fd, header_end)
        self._end = header_end

    def flush(self, data_fd: int) -> None:
        """Make the noted ranges durable, the data first. Raises OSError; the notes are then kept for the next flush."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            files.FILES.sync(data_fd)
            records = b"".join(_pack(done) for done in pending)
            files.FILES.write(self._fd, records, self._end)
            files.FILES.sync(self._fd)
        except BaseException:
            self._pending = pending + self._pending
            raise
        self._end += len(records)

    def close(self) -> None:
        os.close(self._fd)

    def _load(self, data: bytes, offset: int) -> int:
        """Read the records from `offset` on; return the offset where the good ones end."""
        while offset + _RECORD.size <= len(data):
            *fields, crc = _RECORD.unpack_from(data, offset)
            if crc != zlib.crc32(data[offset : offset + _RECORD.size - 4]):
                break  # torn by a crash; later records were never promised
            number, length, base, aux = fields
            done = DoneRange(number & ~_FROM_NEIGHBOUR, length, base, aux, bool(number & _FROM_NEIGHBOUR))
            self.ranges[done.number] = done
            offset += _RECORD.size
        return offset


def _pack(done: DoneRange) -> bytes:
    number = done.number | (_FROM_NEIGHBOUR if done.from_neighbour else 0)
    body = _RECORD.pack(number, done.length, done.base, done.aux, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
