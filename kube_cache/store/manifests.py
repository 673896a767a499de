"""The manifest of a snapshot on the disk: written once, read a piece at a time so that memory does not grow with it.

A manifest is a sequence of frames, each with its kind, its length and the CRC-32 of its payload:
1. header (JSON): what the snapshot is;
2. folders (JSON): no longer used; of an older build, the folders of the snapshot;
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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import InvalidRequest
from kube_cache.store.beneath import StorePath
from kube_cache.store.disk import Disk

CHUNK_FILES = 1000
_VERSION = 3
"""To be raised when a build that knows the version before could not read the frames.

A later version whose frames can be read by the rules of an earlier one says so in its header by `readable_from`. The
header frame itself stays readable for ever, so that a snapshot is listed, and can be evicted, by every build.
"""
_PROOFS = (Verified.TRANSPORT_ONLY, Verified.MD5, Verified.COMPOSITE, Verified.FULL_OBJECT, Verified.PEER_SAMPLED)
"""A file's proof is written as its place here: further ones go to the end."""

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


class TornManifest(Exception):
    """The manifest is not whole, or of an unknown version."""


class OtherVersion(TornManifest):
    """Of a build that writes other frames. The next download links the snapshot anew, and fetches nothing for it."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"version {version}, and this build reads {_VERSION}: the next download links the snapshot anew"
        )


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot is."""

    digest: str
    uri: DatasetUri
    files: int
    bytes: int
    verified: Verified
    """The weakest verification among the files."""
    version: int = _VERSION
    """Version of the manifest."""
    is_readable: bool = True
    """False: the manifest is of another build, and what follows the header cannot be read."""


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


def encode_header(header: Header) -> bytes:
    """Encode the first two frames."""
    about = {
        "version": _VERSION,
        "digest": header.digest,
        "uri": str(header.uri),
        "files": header.files,
        "bytes": header.bytes,
        "verified": str(header.verified),
    }
    return _frame(_HEADER, _json(about)) + _frame(_FOLDERS, _json(None))


def encode_chunk(chunk: Chunk) -> bytes:
    paths = os.fsencode("".join([f"{path}\0" for path in chunk.paths]))
    parts = [_COUNTS.pack(len(chunk.paths), len(paths))]
    parts += [array("Q" if name in {"inodes", "crcs"} else "q", getattr(chunk, name)).tobytes() for name in _COLUMNS]
    parts.append(bytes.fromhex("".join(chunk.ids)))
    parts.append(bytes(_PROOFS.index(Verified(name)) for name in chunk.verified))
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


def read_header(disk: Disk, path: StorePath) -> Header | None:
    """Read the header, also of another version; None without a manifest, or with a torn one, which counts as absent."""
    try:
        with disk.open_file(path) as file:
            return _header(file)
    except (OSError, TornManifest):
        return None


def _header(file: BinaryIO) -> Header:
    kind, payload = _read(file)
    try:
        data = json.loads(payload)
        if kind != _HEADER:
            raise TornManifest("its header is missing")
        version, uri = int(data["version"]), DatasetUri.parse(data["uri"])
        is_readable = version == _VERSION or int(data.get("readable_from", version)) <= _VERSION < version
        verified = Verified(data["verified"])
        return Header(data["digest"], uri, data["files"], data["bytes"], verified, version, is_readable)
    except (ValueError, KeyError, TypeError, InvalidRequest) as error:
        raise TornManifest(str(error)) from error


def read_start(file: BinaryIO) -> Header:
    """Read the header; leaves `file` at the first files frame. Raises TornManifest, OSError."""
    header = _header(file)
    if not header.is_readable:
        raise OtherVersion(header.version)
    if _read(file)[0] != _FOLDERS:
        raise TornManifest("its second frame is missing")
    return header


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


def read_chunks(disk: Disk, path: StorePath) -> Iterator[Chunk]:
    """Read all files. Raises OSError, and TornManifest, at the latest after the last chunk."""
    with disk.open_file(path) as file:
        header = read_start(file)
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
    verified = [str(_PROOFS[code]) for code in payload[place : place + count]]
    paths = os.fsdecode(payload[place + count :]).split("\0")[:count]
    names = [ids[first : first + 2 * _ID_BYTES] for first in range(0, 2 * _ID_BYTES * count, 2 * _ID_BYTES)]
    return Chunk(paths, names, verified=verified, **columns)
