"""The manifest of a snapshot on the disk: written once, read a piece at a time so that memory does not grow with it.

Frames, each with its kind, its length and the CRC-32 of what it holds. The first (JSON) says what the snapshot is, the second
(JSON) names its folders, then comes one for each thousand files, in columns: `_check.c` compares them with the disk as they
lie, without a Python object for each file. The last (JSON) is the number of files, so that a torn manifest is no manifest.

Integers have the machine's own byte order: a disk does not move to another architecture, and if one did, nothing of it
would read as a manifest, and each snapshot would be put together again.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import InvalidRequest

CHUNK = 1000
_VERSION = 3
_WEAKEST_FIRST = (Verified.TRANSPORT_ONLY, Verified.MD5, Verified.COMPOSITE, Verified.FULL_OBJECT)

# The layout is known to `_check.c`, too.
_FRAME: Final = struct.Struct("=III")  # kind, length of what follows, its CRC-32 (which begins with the kind)
_HEADER, _FOLDERS, _FILES, _END = 1, 2, 3, 4
# number of files, bytes of paths; then columns of 8 bytes each, ids of 32, one byte for how it was verified, paths with a NUL each
_COUNTS: Final = struct.Struct("=II")
_COLUMNS = ("sizes", "mtimes", "ctimes", "inodes", "crcs")
_ID = 32
# A chunk is some 100 KB; a length beyond this is not one that we wrote, and is not to be allocated.
_MOST = 64 << 20


def weakest(found: Iterable[Verified]) -> Verified:
    return min(found, key=_WEAKEST_FIRST.index, default=Verified.FULL_OBJECT)


class TornManifest(Exception):
    """Not whole, or not of a version that is known."""


@dataclass(frozen=True, slots=True)
class Header:
    digest: str
    uri: DatasetUri
    files: int
    bytes: int
    verified: Verified
    """The weakest among the files."""


@dataclass(slots=True)
class Chunk:
    """Files, neighbours where they lie in one folder; the columns are of one length."""

    paths: list[str]
    """Relative to the data."""
    ids: list[str]
    sizes: list[int]
    mtimes: list[int]
    ctimes: list[int]
    inodes: list[int]
    crcs: list[int]
    verified: list[str]


def encode_header(header: Header, folders: Iterable[str] | None) -> bytes:
    """folders: all that hold files or folders, '' = the top; None when they are too many to be of use."""
    about = {
        "version": _VERSION,
        "digest": header.digest,
        "uri": str(header.uri),
        "files": header.files,
        "bytes": header.bytes,
        "verified": str(header.verified),
    }
    names = None if folders is None else list(folders)
    return _frame(_HEADER, _json(about)) + _frame(_FOLDERS, _json(names))


def encode_chunk(chunk: Chunk) -> bytes:
    paths = b"".join(os.fsencode(path) + b"\0" for path in chunk.paths)
    parts = [_COUNTS.pack(len(chunk.paths), len(paths))]
    parts += [array("Q" if name in {"inodes", "crcs"} else "q", getattr(chunk, name)).tobytes() for name in _COLUMNS]
    parts.append(bytes.fromhex("".join(chunk.ids)))
    parts.append(bytes(_WEAKEST_FIRST.index(Verified(one)) for one in chunk.verified))
    parts.append(paths)
    return _frame(_FILES, b"".join(parts))


def encode_end(header: Header) -> bytes:
    return _frame(_END, _json({"end": header.files}))


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _frame(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, len(payload), zlib.crc32(payload, kind)) + payload


def _read(file: BinaryIO) -> tuple[int, bytes]:
    """Kind and payload of the next frame."""
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        raise TornManifest("it ends too early")
    kind, length, crc = _FRAME.unpack(head)
    if length > _MOST:
        raise TornManifest("not a manifest, or of an older version")
    payload = file.read(length)
    if len(payload) < length or zlib.crc32(payload, kind) != crc:
        raise TornManifest("bytes of it are missing or wrong")
    return kind, payload


def read_header(path: Path) -> Header | None:
    """None when there is no such snapshot, or its manifest is not one: then it is as good as absent."""
    try:
        with path.open("rb") as file:
            return _header(file)
    except (OSError, TornManifest):
        return None


def _header(file: BinaryIO) -> Header:
    kind, payload = _read(file)
    try:
        data = json.loads(payload)
        if kind != _HEADER or data["version"] != _VERSION:
            raise TornManifest(f"version {data['version']}")
        uri = DatasetUri.parse(data["uri"])
        return Header(data["digest"], uri, data["files"], data["bytes"], Verified(data["verified"]))
    except (ValueError, KeyError, TypeError, InvalidRequest) as error:
        raise TornManifest(str(error)) from error


def begin(file: BinaryIO) -> tuple[Header, list[str] | None]:
    """What the snapshot is, and its folders; the files come next. Raises TornManifest, OSError."""
    header = _header(file)
    kind, payload = _read(file)
    if kind != _FOLDERS:
        raise TornManifest("its folders are missing")
    folders: list[str] | None = json.loads(payload)
    return header, folders


def rest(file: BinaryIO, header: Header, seen: int = 0) -> Iterator[Chunk]:
    """The files that come next, of which so many were seen before. Raises TornManifest at the latest at its end, OSError."""
    while True:
        kind, payload = _read(file)
        if kind == _END:
            if json.loads(payload) == {"end": seen} and seen == header.files:
                return
            break
        if kind != _FILES:
            break
        chunk = _chunk(payload)
        seen += len(chunk.paths)
        yield chunk
    raise TornManifest(f"{seen} files of {header.files}")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """Raises TornManifest, at the latest after the last chunk, and OSError."""
    with path.open("rb") as file:
        header, _ = begin(file)
        yield from rest(file, header)


def _chunk(payload: bytes) -> Chunk:
    """Its checksum was right, so it is as we wrote it."""
    count, _ = _COUNTS.unpack_from(payload)
    place = _COUNTS.size
    columns: dict[str, list[int]] = {}
    for name in _COLUMNS:
        column = array("Q" if name in {"inodes", "crcs"} else "q")
        column.frombytes(payload[place : place + 8 * count])
        columns[name] = column.tolist()
        place += 8 * count
    ids = payload[place : place + _ID * count].hex()
    place += _ID * count
    verified = [str(_WEAKEST_FIRST[one]) for one in payload[place : place + count]]
    paths = os.fsdecode(payload[place + count :]).split("\0")[:count]
    names = [ids[first : first + 2 * _ID] for first in range(0, 2 * _ID * count, 2 * _ID)]
    return Chunk(paths, names, verified=verified, **columns)
