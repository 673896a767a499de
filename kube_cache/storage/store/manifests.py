"""The manifest of a snapshot on the disk: JSON lines, written once, read as a stream so that memory does not grow with it.

First line: what the snapshot is. Then one line for each folder, or each thousand files of it, in columns, because parsing
columns is thrice as fast as parsing rows. Last line: the number of files, so that a torn manifest is no manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kube_cache.storage.transfer import Verified

CHUNK = 1000
_VERSION = 2
_WEAKEST_FIRST = (Verified.TRANSPORT_ONLY, Verified.MD5, Verified.COMPOSITE, Verified.FULL_OBJECT)


def weakest(found: Iterable[Verified]) -> Verified:
    return min(found, key=_WEAKEST_FIRST.index, default=Verified.FULL_OBJECT)


class TornManifest(Exception):
    """Not whole, or not of a version that is known."""


@dataclass(frozen=True, slots=True)
class Header:
    digest: str
    uri: str
    files: int
    bytes: int
    verified: Verified
    """The weakest among the files."""


@dataclass(slots=True)
class Chunk:
    """Files of one folder (relative to the data, '' = its top); the columns are of one length."""

    folder: str
    names: list[str]
    ids: list[str]
    sizes: list[int]
    mtimes: list[int]
    ctimes: list[int]
    inodes: list[int]
    crcs: list[int]
    verified: list[str]

    def path(self, place: int) -> str:
        return f"{self.folder}/{self.names[place]}" if self.folder else self.names[place]


def encode_header(header: Header) -> bytes:
    return _line(
        {
            "version": _VERSION,
            "digest": header.digest,
            "uri": header.uri,
            "files": header.files,
            "bytes": header.bytes,
            "verified": str(header.verified),
        }
    )


def encode_chunk(chunk: Chunk) -> bytes:
    return _line({name: getattr(chunk, name) for name in Chunk.__slots__})


def encode_end(header: Header) -> bytes:
    return _line({"end": header.files})


def _line(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def read_header(path: Path) -> Header | None:
    """None when there is no such snapshot, or its manifest is not one: then it is as good as absent."""
    try:
        with path.open("rb") as file:
            return _header(file.readline())
    except (OSError, TornManifest):
        return None


def _header(line: bytes) -> Header:
    try:
        data = json.loads(line)
        if data["version"] != _VERSION:
            raise TornManifest(f"version {data['version']}")
        return Header(data["digest"], data["uri"], data["files"], data["bytes"], Verified(data["verified"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TornManifest(str(error)) from error


def read_chunks(path: Path) -> Iterator[Chunk]:
    """Raises TornManifest, at the latest after the last chunk, and OSError."""
    with path.open("rb") as file:
        header = _header(file.readline())
        seen = 0
        for line in file:
            try:
                data = json.loads(line)
                if "end" in data:
                    if data["end"] == seen == header.files:
                        return
                    break
                chunk = Chunk(**data)
            except (ValueError, TypeError) as error:
                raise TornManifest(str(error)) from error
            seen += len(chunk.names)
            yield chunk
    raise TornManifest(f"{seen} files of {header.files}")
