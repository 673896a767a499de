"""The tables of the index and their rows. Does not read or write them: `index` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uses (digest TEXT PRIMARY KEY, tick INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pins (
    digest TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, until REAL, PRIMARY KEY (digest, owner));
CREATE TABLE IF NOT EXISTS downloads (
    token TEXT PRIMARY KEY, digest TEXT NOT NULL, uri TEXT NOT NULL, reserved INTEGER NOT NULL, pid INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    id BLOB PRIMARY KEY, size INTEGER NOT NULL, crc INTEGER NOT NULL, verified TEXT NOT NULL,
    inode INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, landed REAL, scrubbed REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS linking (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS landed ON objects (landed) WHERE landed IS NOT NULL;
CREATE TABLE IF NOT EXISTS totals (one INTEGER PRIMARY KEY CHECK (one = 1), objects INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON objects
    BEGIN UPDATE totals SET objects = objects + 1, bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS less AFTER DELETE ON objects
    BEGIN UPDATE totals SET objects = objects - 1, bytes = bytes - OLD.size; END;
"""
OBJECT_COLUMNS = "id, size, crc, verified, inode, mtime, ctime, landed, scrubbed"
_UNSIGNED = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Pin:
    digest: str
    owner: str
    """`pod/<uid>`, or `user/<name>` for one that a person made."""
    created: float
    """Seconds since the epoch. Of a Pod: when its links changed last."""
    until: float | None = None
    """Seconds since the epoch; None: until it is unpinned."""


class ObjectRow(NamedTuple):
    """What the index knows of one object. A tuple, because a publish makes one for each of 100,000 objects."""

    id: str
    size: int
    crc64nvme: int
    verified: str
    inode: int
    mtime: int
    """Nanoseconds, as `ctime`."""
    ctime: int
    """The inode change time that our own last link or unlink left; -1: unknown, so the bytes are read again."""
    landed: float | None = None
    """Seconds since the epoch when the object came, while no snapshot links it; None once one does."""
    scrubbed: float | None = None
    """Number of the last scrub round that read the object."""

    @classmethod
    def of(cls, columns: tuple[bytes, int, int, str, int, int, int, float | None, float | None]) -> ObjectRow:
        """Build the row from the columns that SQLite returns."""
        return cls(columns[0].hex(), columns[1], columns[2] & _UNSIGNED, *columns[3:])

    def columns(self) -> tuple[object, ...]:
        """Return the row as SQLite stores it, in the order of `OBJECT_COLUMNS`."""
        crc = self.crc64nvme - (1 << 64) if self.crc64nvme >> 63 else self.crc64nvme  # SQLite's integers are signed
        id_ = bytes.fromhex(self.id)
        return (id_, self.size, crc, self.verified, self.inode, self.mtime, self.ctime, self.landed, self.scrubbed)


class ObjectCtime(NamedTuple):
    id: str
    ctime: int
    """Nanoseconds."""


class KnownObject(NamedTuple):
    """The part of an `ObjectRow` that the recovery compares with the disk."""

    inode: int
    landed: float | None


class ObjectTotals(NamedTuple):
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ActiveDownload:
    token: str
    digest: str
    uri: str
    reserved_bytes: int
    """Bytes that are yet to be written."""
    pid: int
