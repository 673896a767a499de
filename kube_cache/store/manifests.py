"""The manifest of a snapshot on the disk: written once, read a piece at a time so that memory does not grow with it.

A manifest is a sequence of frames, each with its kind, its length and the CRC-32 of its payload:
1. header (JSON): what the snapshot is;
2. folders (JSON): the folders of the snapshot;
3. files: one frame for each thousand files, in columns, which `_check.c` compares with the disk without making a Python
   object for each file;
4. end (JSON): the number of files, so that a torn manifest is recognised.

Integers have the byte order of the machine: a disk does not move to another architecture. If one did, no manifest on it
would be readable, and each snapshot would be built again.
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

CHUNK_FILES = 1000
_VERSION = 3
_WEAKEST_FIRST = (Verified.TRANSPORT_ONLY, Verified.MD5, Verified.COMPOSITE, Verified.FULL_OBJECT)

# `_check.c` knows this layout, too.
_FRAME: Final = struct.Struct("=III")  # kind, length of what follows, its CRC-32 (which begins with the kind)
_HEADER, _FOLDERS, _FILES, _END = 1, 2, 3, 4
# The payload of a files frame: number of files, bytes of paths; then the columns of 8 bytes a file, ids of 32 bytes,
# one byte for `verified`, and the paths, each with a NUL.
_COUNTS: Final = struct.Struct("=II")
_COLUMNS = ("sizes", "mtimes", "ctimes", "inodes", "crcs")
_ID_BYTES = 32
# A chunk has some 100 KB. A greater length is not one that we wrote and must not be allocated.
_MAX_PAYLOAD_BYTES = 64 << 20


def weakest(verifications: Iterable[Verified]) -> Verified:
    return min(verifications, key=_WEAKEST_FIRST.index, default=Verified.FULL_OBJECT)


class TornManifest(Exception):
    """The manifest is not whole, or of an unknown version."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot is."""

    digest: str
    uri: DatasetUri
    files: int
    bytes: int
    verified: Verified
    """The weakest verification among the files."""


@dataclass(slots=True)
class Chunk:
    """Up to CHUNK_FILES files, one list for each column; the files of one folder are neighbours."""

    paths: list[str]
    """Relative to the snapshot's data folder."""
    ids: list[str]
    """Ids of the objects."""
    sizes: list[int]
    mtimes: list[int]
    """Nanoseconds, as `ctimes`."""
    ctimes: list[int]
    """Inode change times when the snapshot was published."""
    inodes: list[int]
    crcs: list[int]
    verified: list[str]


def encode_header(header: Header, folders: Iterable[str] | None) -> bytes:
    """Encode the first two frames.

    folders: every folder that holds files or folders, '' = the top one; None when they are too many to be watched.
    """
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
    parts.append(bytes(_WEAKEST_FIRST.index(Verified(name)) for name in chunk.verified))
    parts.append(paths)
    return _frame(_FILES, b"".join(parts))


def encode_end(header: Header) -> bytes:
    return _frame(_END, _json({"end": header.files}))


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _frame(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, len(payload), zlib.crc32(payload, kind)) + payload


def _read(file: BinaryIO) -> tuple[int, bytes]:
    """Read the next frame: its kind and its payload. Raises TornManifest."""
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        raise TornManifest("it ends too early")
    kind, length, crc = _FRAME.unpack(head)
    if length > _MAX_PAYLOAD_BYTES:
        raise TornManifest("not a manifest, or of an older version")
    payload = file.read(length)
    if len(payload) < length or zlib.crc32(payload, kind) != crc:
        raise TornManifest("bytes of it are missing or wrong")
    return kind, payload


def read_header(path: Path) -> Header | None:
    """Read the header; None when there is no manifest, or a torn one, which counts as absent."""
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


def read_start(file: BinaryIO) -> tuple[Header, list[str] | None]:
    """Read the header and the folders; leaves `file` at the first files frame. Raises TornManifest, OSError."""
    header = _header(file)
    kind, payload = _read(file)
    if kind != _FOLDERS:
        raise TornManifest("its folders are missing")
    folders: list[str] | None = json.loads(payload)
    return header, folders


def read_files(file: BinaryIO, header: Header, seen: int = 0) -> Iterator[Chunk]:
    """Read the remaining files. Raises OSError, and TornManifest, at the latest at the end.

    seen: number of the files before them.
    """
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
    """Read all files. Raises OSError, and TornManifest, at the latest after the last chunk."""
    with path.open("rb") as file:
        header, _ = read_start(file)
        yield from read_files(file, header)


def _chunk(payload: bytes) -> Chunk:
    """Decode the payload of a files frame. Needs no checks: the frame's CRC was right, so it is as we wrote it."""
    count, _ = _COUNTS.unpack_from(payload)
    place = _COUNTS.size
    columns: dict[str, list[int]] = {}
    for name in _COLUMNS:
        column = array("Q" if name in {"inodes", "crcs"} else "q")
        column.frombytes(payload[place : place + 8 * count])
        columns[name] = column.tolist()
        place += 8 * count
    ids = payload[place : place + _ID_BYTES * count].hex()
    place += _ID_BYTES * count
    verified = [str(_WEAKEST_FIRST[rank]) for rank in payload[place : place + count]]
    paths = os.fsdecode(payload[place + count :]).split("\0")[:count]
    names = [ids[first : first + 2 * _ID_BYTES] for first in range(0, 2 * _ID_BYTES * count, 2 * _ID_BYTES)]
    return Chunk(paths, names, verified=verified, **columns)
