"""The index of the store, in SQLite: last uses, pins, reservations, and what is known of each object. Never the truth.

The directories are the truth. An index that is lost, or older than the disk after a power cut, is filled again from the
manifests by the recovery at start-up; pins are made again by the Pods that wait and by the reconcile. Several processes
(the agent, the CLI) use one index at once. Does not hold objects in memory: the agent does not grow with their number.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kube_cache.store.index_rows import (
    OBJECT_COLUMNS,
    SCHEMA,
    ActiveDownload,
    KnownObject,
    ObjectCtime,
    ObjectRow,
    ObjectTotals,
    Pin,
)
from kube_cache.store.index_schema import Conversion, prepare

_QUERY_IDS = 500  # below SQLite's limit of variables in a statement: 999 before 3.32
_PUBLISH_ROWS = 50_000  # in one transaction; arbitrary: other threads get the index in between


class Index:
    """Thread-safe. Raises sqlite3.Error where the disk fails."""

    def __init__(self, path: Path, *, convert: bool = False) -> None:
        """Open the index, or create it. convert: make an index of another build ours. Raises OtherSchemaError."""
        self._path = path
        self._lock = threading.RLock()
        self._db, self._inode, self.conversion = _connect(path, convert=convert)
        self._ended: set[str] = set()
        """Tokens of this process's ended downloads, also of those that a full disk did not let us delete."""

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lock the connection to the file that is there now. A removed file is written anew from the open one."""
        with self._lock:
            try:
                inode = os.stat(self._path).st_ino
            except FileNotFoundError:
                inode = -1
            if inode != self._inode and not self._db.in_transaction:
                for suffix in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{suffix}")
                fresh, self._inode, _ = _connect(self._path, convert=True)
                self._db.backup(fresh)
                self._db.close()
                self._db = fresh
            yield self._db

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Keep other threads and processes from changing the index. durable: the commit survives a power cut."""
        with self._connection() as db:
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

    # Key and value.

    def get_meta(self, key: str) -> str | None:
        with self._connection() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, key: str, value: str | None) -> None:
        """Store the value; None deletes the key."""
        with self._connection() as db:
            if value is None:
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def meta_under(self, prefix: str) -> dict[str, str]:
        """Key -> value, of the keys that begin so. prefix: without the wildcards of SQL."""
        with self._connection() as db:
            return dict(db.execute("SELECT key, value FROM meta WHERE key LIKE ?", (f"{prefix}%",)).fetchall())

    def cache_id(self) -> str | None:
        """Identity of the disk whose index this is."""
        return self.get_meta("cache-id")

    def set_cache_id(self, cache_id: str) -> None:
        self.set_meta("cache-id", cache_id)

    # Uses.

    def touch(self, digest: str) -> None:
        """Make the snapshot the most recently used one. A counter orders the uses, because clocks jump back."""
        with self._connection() as db:
            db.execute(
                "INSERT INTO uses VALUES (?, (SELECT COALESCE(MAX(tick), 0) + 1 FROM uses), ?)"
                " ON CONFLICT (digest) DO UPDATE SET tick = (SELECT MAX(tick) + 1 FROM uses), at = excluded.at",
                (digest, time.time()),
            )

    def drop_use(self, digest: str) -> None:
        """Delete the use of a snapshot that is gone, and its ctime fingerprint."""
        with self._connection() as db:
            db.execute("DELETE FROM uses WHERE digest = ?", (digest,))
            self.set_meta(_fingerprint_key(digest), None)

    def uses(self) -> dict[str, float]:
        """Digest -> time of the last use, for people, in seconds since the epoch; least recently used first."""
        with self._connection() as db:
            return dict(db.execute("SELECT digest, at FROM uses ORDER BY tick").fetchall())

    # Pins.

    def pin(self, digest: str, owner: str, until: float | None, *, created: float | None = None) -> None:
        """Add a pin, or change its end. Durable: after a power cut the node still has its Pods.

        until, created: seconds since the epoch. created: None = now.
        """
        with self.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT (digest, owner) DO UPDATE SET until = excluded.until",
                (digest, owner, time.time() if created is None else created, until),
            )

    def unpin(self, digest: str, owner: str) -> bool:
        """Delete a pin. False if there was none."""
        with self._connection() as db:
            return db.execute("DELETE FROM pins WHERE digest = ? AND owner = ?", (digest, owner)).rowcount > 0

    def pins(self) -> list[Pin]:
        """Return the pins that have not expired."""
        with self._connection() as db:
            pins = [Pin(*row) for row in db.execute("SELECT digest, owner, created, until FROM pins ORDER BY 1, 2")]
        now = time.time()
        return [pin for pin in pins if pin.until is None or pin.until > now]

    # Downloads, each with the bytes that are reserved for it.

    def add_download(self, download: ActiveDownload) -> None:
        with self._connection() as db:
            for token in tuple(self._ended):
                self._delete_download(db, token)
            db.execute(
                "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?, ?)",
                (download.token, download.digest, download.uri, download.reserved_bytes, download.pid),
            )

    def set_reserved(self, token: str, reserved_bytes: int) -> None:
        with self._connection() as db:
            db.execute("UPDATE downloads SET reserved = ? WHERE token = ?", (reserved_bytes, token))

    def end_download(self, token: str) -> None:
        """End a download of this process. It counts as ended also where the index cannot be written."""
        self._ended.add(token)
        with self._connection() as db:
            self._delete_download(db, token)

    def _delete_download(self, db: sqlite3.Connection, token: str) -> None:
        db.execute("DELETE FROM downloads WHERE token = ?", (token,))
        self._ended.discard(token)

    def end_downloads_except(self, pid: int) -> None:
        """End the downloads of all other processes."""
        with self._connection() as db:
            db.execute("DELETE FROM downloads WHERE pid != ?", (pid,))

    def downloads(self) -> list[ActiveDownload]:
        with self._connection() as db:
            rows = db.execute("SELECT token, digest, uri, reserved, pid FROM downloads").fetchall()
        return [download for download in (ActiveDownload(*row) for row in rows) if download.token not in self._ended]

    # Objects.

    def put_objects(self, rows: Iterable[ObjectRow]) -> None:
        with self.transaction() as db:
            db.executemany(
                f"INSERT INTO objects ({OBJECT_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)"  # noqa: S608 - a constant
                " ON CONFLICT (id) DO UPDATE SET crc = excluded.crc, verified = excluded.verified,"
                " inode = excluded.inode, mtime = excluded.mtime, ctime = excluded.ctime, landed = excluded.landed",
                (row.columns() for row in rows),
            )

    def objects(self, ids: Sequence[str]) -> dict[str, ObjectRow]:
        """Id -> row, of the ids that are known."""
        objects: dict[str, ObjectRow] = {}
        with self._connection() as db:
            for first in range(0, len(ids), _QUERY_IDS):
                batch = [bytes.fromhex(id_) for id_ in ids[first : first + _QUERY_IDS]]
                marks = ",".join("?" * len(batch))
                for row in db.execute(f"SELECT {OBJECT_COLUMNS} FROM objects WHERE id IN ({marks})", batch):  # noqa: S608
                    known = ObjectRow.of(row)
                    objects[known.id] = known
        return objects

    def ctimes(self, ids: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Raw id -> (inode, ctime in ns), of the ids that are known; for a check of 100,000 of them."""
        ctimes: dict[bytes, tuple[int, int]] = {}
        with self._connection() as db:
            for first in range(0, len(ids), _QUERY_IDS):
                batch = ids[first : first + _QUERY_IDS]
                marks = ",".join("?" * len(batch))
                rows = db.execute(f"SELECT id, inode, ctime FROM objects WHERE id IN ({marks})", batch)  # noqa: S608
                ctimes.update((id_, (inode, ctime)) for id_, inode, ctime in rows)
        return ctimes

    def ctime_fingerprint(self, digest: str) -> int | None:
        """Return what `set_ctime_fingerprint` stored last."""
        value = self.get_meta(_fingerprint_key(digest))
        return int(value) if value else None

    def set_ctime_fingerprint(self, digest: str, fingerprint: int) -> None:
        """Store the fingerprint of a snapshot's changed ctimes, all of which our own links explain.

        A later check that meets the same fingerprint need not look each object up again.
        """
        self.set_meta(_fingerprint_key(digest), str(fingerprint))

    def objects_under(self, shard: int) -> dict[str, KnownObject]:
        """Id -> what is known, of the ids that begin with this byte."""
        with self._connection() as db:
            # Two plain bounds, so that SQLite seeks the range: with an OR, each shard reads to the end of the table.
            rows = db.execute(
                "SELECT id, inode, landed FROM objects WHERE id BETWEEN ? AND ?",
                (bytes([shard]), bytes([shard]) + b"\xff" * 32),
            ).fetchall()
        return {id_.hex(): KnownObject(inode, landed) for id_, inode, landed in rows}

    def drop_objects(self, ids: Iterable[str]) -> None:
        with self.transaction() as db:
            db.executemany("DELETE FROM objects WHERE id = ?", ((bytes.fromhex(id_),) for id_ in ids))

    def set_ctimes(self, ctimes: Iterable[ObjectCtime]) -> None:
        with self.transaction() as db:
            db.executemany(
                "UPDATE objects SET ctime = ? WHERE id = ?", ((ctime, bytes.fromhex(id_)) for id_, ctime in ctimes)
            )

    def begin_linking(self, ids: Iterable[str]) -> None:
        """Note the objects whose ctimes our links are about to change; after a crash the note explains the change."""
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO linking VALUES (?)", ((bytes.fromhex(id_),) for id_ in ids))

    def end_linking(self, ctimes: Iterable[ObjectCtime]) -> None:
        """Store the ctimes that the links left, and clear the note of `begin_linking`."""
        with self.transaction() as db:
            self.set_ctimes(ctimes)
            db.execute("DELETE FROM linking")

    def linking(self) -> set[str]:
        """Return the ids that `begin_linking` noted and `end_linking` did not clear."""
        with self._connection() as db:
            return {row[0].hex() for row in db.execute("SELECT id FROM linking")}

    def set_landed(self, ids: Iterable[str], at: float | None) -> None:
        """at: seconds since the epoch since when no snapshot links the objects; None: a snapshot links them."""
        with self.transaction() as db:
            db.executemany("UPDATE objects SET landed = ? WHERE id = ?", ((at, bytes.fromhex(id_)) for id_ in ids))

    def record_published(self, digest: str, ids: Iterable[str], linked: Iterable[ObjectCtime]) -> list[str]:
        """Record a snapshot that is visible now: its objects are linked, with the ctimes that the links left.

        Returns the ids that no snapshot linked before. The use of the snapshot is recorded last: a crash before that
        leaves a snapshot without a use, of which the recovery at start-up learns from the manifest.
        """
        with self._connection() as db:
            newly_linked = {row[0] for row in db.execute("SELECT id FROM objects WHERE landed IS NOT NULL")}
        newly_linked.intersection_update(map(bytes.fromhex, ids))
        # In the order of the table: in random order each batch would touch, and write, nearly all of its pages.
        rows = sorted((bytes.fromhex(id_), ctime) for id_, ctime in linked)
        for first in range(0, len(rows), _PUBLISH_ROWS):
            with self.transaction() as db:
                db.executemany(
                    "UPDATE objects SET ctime = ?, landed = NULL WHERE id = ?",
                    ((ctime, id_) for id_, ctime in rows[first : first + _PUBLISH_ROWS]),
                )
        with self.transaction() as db:
            db.executemany(
                "UPDATE objects SET landed = NULL WHERE id = ? AND landed IS NOT NULL",
                ((id_,) for id_ in sorted(newly_linked)),
            )
            self.touch(digest)
        return [id_.hex() for id_ in newly_linked]

    def next_scrub_round(self) -> int:
        """Return the number of a new scrub round: greater than any before, also when the clock has jumped back."""
        with self.transaction():
            number = max(int(self.get_meta("scrub-round") or 0) + 1, int(time.time()))
            self.set_meta("scrub-round", str(number))
        return number

    def set_scrubbed(self, ids: Iterable[str], number: int) -> None:
        """Record that the scrub round of this number has read the objects."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE objects SET scrubbed = MAX(?, COALESCE(scrubbed, 0)) WHERE id = ?",
                ((number, bytes.fromhex(id_)) for id_ in ids),
            )

    def unlinked(self, limit: int) -> list[ObjectRow]:
        """Return up to `limit` objects that no snapshot links, oldest first."""
        with self._connection() as db:
            rows = db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM objects WHERE landed IS NOT NULL ORDER BY landed LIMIT ?",  # noqa: S608
                (limit,),
            )
            return [ObjectRow.of(row) for row in rows]

    def unlinked_bytes(self) -> int:
        with self._connection() as db:
            return int(db.execute("SELECT COALESCE(SUM(size), 0) FROM objects WHERE landed IS NOT NULL").fetchone()[0])

    def totals(self) -> ObjectTotals:
        with self._connection() as db:
            return ObjectTotals(*db.execute("SELECT objects, bytes FROM totals").fetchone())

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _fingerprint_key(digest: str) -> str:
    return f"ctime-fingerprint/{digest}"


def _connect(path: Path, *, convert: bool) -> tuple[sqlite3.Connection, int, Conversion | None]:
    """Open the database, with its tables. Returns the connection, the file's inode, and what was converted."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-8192")  # KiB: bounded, whatever the number of objects
        db.execute("PRAGMA recursive_triggers=ON")
        conversion = prepare(db, SCHEMA, convert=convert)
    except BaseException:
        db.close()
        raise
    return db, os.stat(path).st_ino, conversion
