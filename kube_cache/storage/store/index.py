"""The index: last use, pins and reservations, in SQLite. A convenience, never the truth about what is on the disk.

When it is lost, snapshots are found again from the directories; pins are made again by the Pods that still wait and by the
reconcile. Several processes (the agent, the CLI) use it at once.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS uses (digest TEXT PRIMARY KEY, tick INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pins (
    digest TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, until REAL, PRIMARY KEY (digest, owner));
"""


@dataclass(frozen=True, slots=True)
class Pin:
    digest: str
    owner: str
    """`pod/<uid>`, or `user/<name>` for one that a person made."""
    created: float
    until: float | None = None


class Index:
    """Thread-safe. Raises sqlite3.Error where the disk does."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other thread or process changes the index inside."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def touch(self, digest: str) -> None:
        """Most recently used. A counter, not a clock: clocks jump back."""
        with self._lock:
            self._db.execute(
                "INSERT INTO uses VALUES (?, (SELECT COALESCE(MAX(tick), 0) + 1 FROM uses))"
                " ON CONFLICT (digest) DO UPDATE SET tick = (SELECT MAX(tick) + 1 FROM uses)",
                (digest,),
            )

    def forget(self, digest: str) -> None:
        with self._lock:
            self._db.execute("DELETE FROM uses WHERE digest = ?", (digest,))

    def by_last_use(self) -> list[str]:
        """Least recently used first."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT digest FROM uses ORDER BY tick")]

    def pin(self, digest: str, owner: str, until: float | None) -> None:
        with self._lock:
            self._db.execute(
                "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT (digest, owner) DO UPDATE SET until = excluded.until",
                (digest, owner, time.time(), until),
            )

    def unpin(self, digest: str, owner: str) -> None:
        with self._lock:
            self._db.execute("DELETE FROM pins WHERE digest = ? AND owner = ?", (digest, owner))

    def pins(self) -> list[Pin]:
        """Those in force."""
        with self._lock:
            rows = self._db.execute("SELECT digest, owner, created, until FROM pins ORDER BY digest, owner").fetchall()
        now = time.time()
        return [Pin(*row) for row in rows if row[3] is None or row[3] > now]

    def close(self) -> None:
        with self._lock:
            self._db.close()
