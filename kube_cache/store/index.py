"""The index: last use, pins, reservations and what is known of each object, in SQLite. Never the truth about the disk.

When it is lost or older than the disk (a power cut), the start-up scan fills it again from the manifests; pins are made
again by the Pods that still wait and by the reconcile. Several processes (the agent, the CLI) use it at once. Objects are
looked up, never held: the agent's memory does not grow with their number.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uses (digest TEXT PRIMARY KEY, tick INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pins (
    digest TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, until REAL, PRIMARY KEY (digest, owner));
CREATE TABLE IF NOT EXISTS warms (
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
LOST = "index/lost"
"""Owner of the pins on all that was there when an index was lost, and with it the pins of what Pods run on: until the reconcile."""
_BATCH = 500
_UNSIGNED = (1 << 64) - 1
_MANY = 50_000
_COLUMNS = "id, size, crc, verified, inode, mtime, ctime, landed, scrubbed"


@dataclass(frozen=True, slots=True)
class Pin:
    digest: str
    owner: str
    """`pod/<uid>`, `user/<name>` for one that a person made, or LOST."""
    created: float
    until: float | None = None


class ObjectRow(NamedTuple):
    """A tuple, because a publish makes one for each of 100,000 objects."""

    id: str
    size: int
    crc64nvme: int
    verified: str
    inode: int
    mtime: int
    ctime: int
    landed: float | None = None
    """When it came, while no snapshot links it; None once one does."""
    scrubbed: float | None = None
    """The last round of the scrub that read it."""

    def row(self) -> tuple[object, ...]:
        crc = self.crc64nvme - (1 << 64) if self.crc64nvme >> 63 else self.crc64nvme  # SQLite's integers are signed
        name = bytes.fromhex(self.id)
        return (name, self.size, crc, self.verified, self.inode, self.mtime, self.ctime, self.landed, self.scrubbed)


@dataclass(frozen=True, slots=True)
class Warm:
    token: str
    digest: str
    uri: str
    reserved: int
    pid: int


class Index:
    """Thread-safe. Raises sqlite3.Error where the disk does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._db, self._inode = _connect(path)
        self._ended: set[str] = set()
        """Warms of this process that are over, also where a full or failing disk did not take that down."""

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, to the file that is there now: a removed index is written anew from what is still open."""
        with self._lock:
            try:
                inode = os.stat(self._path).st_ino
            except FileNotFoundError:
                inode = -1
            if inode != self._inode and not self._db.in_transaction:
                for name in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{name}")
                fresh, self._inode = _connect(self._path)
                self._db.backup(fresh)
                self._db.close()
                self._db = fresh
            yield self._db

    @contextmanager
    def exclusive(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """No other thread or process changes the index inside. durable: also past a power cut."""
        with self._open() as db:
            if db.in_transaction:
                yield db
                return
            if durable:
                db.execute("PRAGMA synchronous=FULL")
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
            finally:
                if durable:
                    db.execute("PRAGMA synchronous=NORMAL")

    # A few words that outlive the process.

    def recall(self, key: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def remember(self, key: str, value: str | None) -> None:
        """None: no more."""
        with self._open() as db:
            if value is None:
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def belongs_to(self) -> str | None:
        """Identity of the disk whose index this is."""
        return self.recall("cache-id")

    def claim_for(self, cache_id: str) -> None:
        self.remember("cache-id", cache_id)

    # Uses.

    def touch(self, digest: str) -> None:
        """Most recently used. A counter, not a clock: clocks jump back."""
        with self._open() as db:
            db.execute(
                "INSERT INTO uses VALUES (?, (SELECT COALESCE(MAX(tick), 0) + 1 FROM uses), ?)"
                " ON CONFLICT (digest) DO UPDATE SET tick = (SELECT MAX(tick) + 1 FROM uses), at = excluded.at",
                (digest, time.time()),
            )

    def forget(self, digest: str) -> None:
        with self._open() as db:
            db.execute("DELETE FROM uses WHERE digest = ?", (digest,))
            self.remember(f"sign/{digest}", None)

    def uses(self) -> dict[str, float]:
        """Digest -> when last used (for people), least recently used first."""
        with self._open() as db:
            return dict(db.execute("SELECT digest, at FROM uses ORDER BY tick").fetchall())

    # Pins.

    def pin(self, digest: str, owner: str, until: float | None, *, created: float | None = None) -> None:
        """Durable: a node that comes back from a power cut still has its Pods. created: seconds since the epoch; None = now."""
        with self.exclusive(durable=True) as db:
            db.execute(
                "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT (digest, owner) DO UPDATE SET until = excluded.until",
                (digest, owner, time.time() if created is None else created, until),
            )

    def unpin(self, digest: str, owner: str) -> bool:
        with self._open() as db:
            return db.execute("DELETE FROM pins WHERE digest = ? AND owner = ?", (digest, owner)).rowcount > 0

    def pins(self) -> list[Pin]:
        """Those in force."""
        with self._open() as db:
            rows = db.execute("SELECT digest, owner, created, until FROM pins ORDER BY digest, owner").fetchall()
        now = time.time()
        return [Pin(*row) for row in rows if row[3] is None or row[3] > now]

    # Warms, each with what is reserved for it and not written yet.

    def set_warm(self, warm: Warm) -> None:
        with self._open() as db:
            for token in tuple(self._ended):
                self._forget_warm(db, token)
            db.execute(
                "INSERT OR REPLACE INTO warms VALUES (?, ?, ?, ?, ?)",
                (warm.token, warm.digest, warm.uri, warm.reserved, warm.pid),
            )

    def set_reserved(self, token: str, reserved: int) -> None:
        with self._open() as db:
            db.execute("UPDATE warms SET reserved = ? WHERE token = ?", (reserved, token))

    def end_warm(self, token: str) -> None:
        self._ended.add(token)
        with self._open() as db:
            self._forget_warm(db, token)

    def _forget_warm(self, db: sqlite3.Connection, token: str) -> None:
        db.execute("DELETE FROM warms WHERE token = ?", (token,))
        self._ended.discard(token)

    def end_warms_but(self, pid: int) -> None:
        with self._open() as db:
            db.execute("DELETE FROM warms WHERE pid != ?", (pid,))

    def warms(self) -> list[Warm]:
        with self._open() as db:
            found = [Warm(*row) for row in db.execute("SELECT token, digest, uri, reserved, pid FROM warms")]
        return [warm for warm in found if warm.token not in self._ended]

    # Objects.

    def put_objects(self, rows: Iterable[ObjectRow]) -> None:
        with self.exclusive() as db:
            db.executemany(
                f"INSERT INTO objects ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)"  # noqa: S608 - a constant
                " ON CONFLICT (id) DO UPDATE SET crc = excluded.crc, verified = excluded.verified,"
                " inode = excluded.inode, mtime = excluded.mtime, ctime = excluded.ctime, landed = excluded.landed",
                (row.row() for row in rows),
            )

    def objects(self, ids: Sequence[str]) -> dict[str, ObjectRow]:
        found: dict[str, ObjectRow] = {}
        with self._open() as db:
            for first in range(0, len(ids), _BATCH):
                some = [bytes.fromhex(name) for name in ids[first : first + _BATCH]]
                marks = ",".join("?" * len(some))
                for row in db.execute(f"SELECT {_COLUMNS} FROM objects WHERE id IN ({marks})", some):  # noqa: S608
                    one = _row(row)
                    found[one.id] = one
        return found

    def times(self, ids: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Raw id -> (inode, inode time), for a look at 100,000 of them."""
        found: dict[bytes, tuple[int, int]] = {}
        with self._open() as db:
            for first in range(0, len(ids), _BATCH):
                some = ids[first : first + _BATCH]
                marks = ",".join("?" * len(some))
                rows = db.execute(f"SELECT id, inode, ctime FROM objects WHERE id IN ({marks})", some)  # noqa: S608
                found.update((name, (inode, ctime)) for name, inode, ctime in rows)
        return found

    def sign_of(self, digest: str) -> int | None:
        """What `set_sign` was told."""
        found = self.recall(f"sign/{digest}")
        return int(found) if found else None

    def set_sign(self, digest: str, sign: int) -> None:
        """So that a look at a snapshot whose inode times our own links changed need not ask for each object again."""
        self.remember(f"sign/{digest}", str(sign))

    def objects_under(self, shard: int) -> dict[str, tuple[int, float | None]]:
        """Id -> (inode, landed), of those whose id begins with this byte."""
        with self._open() as db:
            # Both ends are plain, so that the range is looked up: an OR here reads to the end of the table for each shard.
            rows = db.execute(
                "SELECT id, inode, landed FROM objects WHERE id BETWEEN ? AND ?",
                (bytes([shard]), bytes([shard]) + b"\xff" * 32),
            ).fetchall()
        return {row[0].hex(): (row[1], row[2]) for row in rows}

    def drop_objects(self, ids: Iterable[str]) -> None:
        with self.exclusive() as db:
            db.executemany("DELETE FROM objects WHERE id = ?", ((bytes.fromhex(name),) for name in ids))

    def set_ctimes(self, found: Iterable[tuple[str, int]]) -> None:
        with self.exclusive() as db:
            db.executemany(
                "UPDATE objects SET ctime = ? WHERE id = ?", ((ctime, bytes.fromhex(name)) for name, ctime in found)
            )

    def begin_linking(self, ids: Iterable[str]) -> None:
        """Their inode times are about to change by our own hand; should we die in between, that explains it."""
        with self.exclusive() as db:
            db.executemany("INSERT OR IGNORE INTO linking VALUES (?)", ((bytes.fromhex(name),) for name in ids))

    def end_linking(self, found: Iterable[tuple[str, int]]) -> None:
        with self.exclusive() as db:
            self.set_ctimes(found)
            db.execute("DELETE FROM linking")

    def linking(self) -> set[str]:
        with self._open() as db:
            return {row[0].hex() for row in db.execute("SELECT id FROM linking")}

    def set_landed(self, ids: Iterable[str], at: float | None) -> None:
        with self.exclusive() as db:
            db.executemany("UPDATE objects SET landed = ? WHERE id = ?", ((at, bytes.fromhex(name)) for name in ids))

    def publish(self, digest: str, ids: Iterable[str], linked: list[tuple[str, int]]) -> list[str]:
        """The snapshot can be seen: its objects are linked from now on, with the inode times that this made.

        Returns those that no snapshot linked before. The use of the snapshot is noted last: as long as it is not, the
        start-up scan learns all this from the manifest.
        """
        with self._open() as db:
            fresh = {row[0] for row in db.execute("SELECT id FROM objects WHERE landed IS NOT NULL")}
        fresh.intersection_update(map(bytes.fromhex, ids))
        # In the order of the table: at random each batch would touch, and write, nearly all of its pages.
        rows = sorted((bytes.fromhex(name), ctime) for name, ctime in linked)
        for first in range(0, len(rows), _MANY):
            with self.exclusive() as db:
                db.executemany(
                    "UPDATE objects SET ctime = ?, landed = NULL WHERE id = ?",
                    ((ctime, name) for name, ctime in rows[first : first + _MANY]),
                )
        with self.exclusive() as db:
            db.executemany(
                "UPDATE objects SET landed = NULL WHERE id = ? AND landed IS NOT NULL",
                ((one,) for one in sorted(fresh)),
            )
            self.touch(digest)
        return [name.hex() for name in fresh]

    def next_round(self) -> int:
        """Greater than any before it, also when the clock has jumped back: what a scrub read says which round it was."""
        with self.exclusive():
            number = max(int(self.recall("scrub-round") or 0) + 1, int(time.time()))
            self.remember("scrub-round", str(number))
        return number

    def set_scrubbed(self, ids: Iterable[str], number: int) -> None:
        with self.exclusive() as db:
            db.executemany(
                "UPDATE objects SET scrubbed = MAX(?, COALESCE(scrubbed, 0)) WHERE id = ?",
                ((number, bytes.fromhex(name)) for name in ids),
            )

    def unlinked(self, limit: int) -> list[ObjectRow]:
        """Objects that no snapshot links, oldest first."""
        with self._open() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE landed IS NOT NULL ORDER BY landed LIMIT ?",  # noqa: S608
                (limit,),
            )
            return [_row(row) for row in rows]

    def unlinked_bytes(self) -> int:
        with self._open() as db:
            return int(db.execute("SELECT COALESCE(SUM(size), 0) FROM objects WHERE landed IS NOT NULL").fetchone()[0])

    def totals(self) -> tuple[int, int]:
        """Objects and their bytes."""
        with self._open() as db:
            count, size = db.execute("SELECT objects, bytes FROM totals").fetchone()
        return int(count), int(size)

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _row(row: tuple[bytes, int, int, str, int, int, int, float | None, float | None]) -> ObjectRow:
    return ObjectRow(row[0].hex(), row[1], row[2] & _UNSIGNED, *row[3:])


def _connect(path: Path) -> tuple[sqlite3.Connection, int]:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-8192")  # KiB: bounded, whatever the number of objects
        db.execute("PRAGMA recursive_triggers=ON")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db, os.stat(path).st_ino
