"""Remembers which objects are in a directory: a line for each, written before its file gets its name.

A file counts as fetched while it is the one that the record names: same inode, size and time of change. So a file that
a person has replaced, or that a crash left without its name, is fetched again, and no other is. The file's bytes were
durable before the line was written; a line that a crash tore is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from kube_cache.errors import StoreConflict

_FORM = 1
_encode: Final = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class Landed:
    """An object whose file is in the directory. path: relative. pin: see `RemoteObject.pin`. verified: a `Verified`."""

    path: str
    pin: str
    size: int
    crc64nvme: int
    verified: str
    inode: int
    mtime_ns: int

    def is_there(self, directory: Path) -> bool:
        """Check whether the file is still the one that was fetched. Raises OSError, but not for a missing file."""
        try:
            found = (directory / self.path).stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (found.st_ino, found.st_size, found.st_mtime_ns) == (self.inode, self.size, self.mtime_ns)


class Record:
    """Not thread-safe. Every method raises OSError."""

    def __init__(self, path: Path, uri: str) -> None:
        """Open or begin the record. Raises StoreConflict if the directory holds another dataset."""
        self.landed: dict[str, Landed] = {}
        """By path."""
        self._path = path
        self._uri = uri
        is_whole = self._load()
        self._handle = path.open("a", encoding="utf-8")
        if not is_whole:
            self.rewrite(list(self.landed.values()))

    def add(self, landed: Landed) -> None:
        """Note an object. A process that is killed afterwards has noted it."""
        self.landed[landed.path] = landed
        self._handle.write(_line(landed))
        self._handle.flush()

    def rewrite(self, landed: Iterable[Landed]) -> None:
        """Replace all lines by these, durably."""
        self.landed = {each.path: each for each in landed}
        aside = self._path.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as handle:
            handle.write(json.dumps({"form": _FORM, "uri": self._uri}) + "\n")
            handle.writelines(map(_line, self.landed.values()))
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(self._path)
        self._handle.close()
        self._handle = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._handle.close()

    def _load(self) -> bool:
        """Read what is there; False if there is no record, or not all of it can be read."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return False
        head = _parse_head(lines[0]) if lines else {}
        if head.get("form") != _FORM:
            return False
        if head["uri"] != self._uri:
            raise StoreConflict(
                f"{self._path.parent.parent} holds {head['uri']}, not {self._uri}; name another directory, or remove it"
            )
        for line in lines[1:]:
            landed = _parse(line)
            if landed is None:
                return False  # torn by a crash: the next line would be glued to it
            self.landed[landed.path] = landed
        return True


_FIELDS: Final = tuple(field.name for field in fields(Landed))
_values: Final = attrgetter(*_FIELDS)


def _line(landed: Landed) -> str:
    return _encode(_values(landed)) + "\n"


def _parse(line: str) -> Landed | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return Landed(*values) if isinstance(values, list) and len(values) == len(_FIELDS) else None


def _parse_head(line: str) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except ValueError:
        return {}
    return head if isinstance(head, dict) else {}
