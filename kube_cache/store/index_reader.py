"""The index opened to be read only: nothing is created, converted, rebuilt or deleted.

For `store ls` and `store du`: a look at a disk must not be what changes it, least of all with another build than the
agent's, or while the disk fails.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from kube_cache.errors import KubeCacheError
from kube_cache.store import index_schema
from kube_cache.store.index import Index


class IndexReader(Index):
    """Raises KubeCacheError where there is no index to read, sqlite3.Error where the disk fails."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._ended: set[str] = set()
        self.conversion = None
        try:
            self._db = _connect(path)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise KubeCacheError(f"{path}: {error}; the agent makes it anew when it starts") from error
        if version != index_schema.VERSION:
            self._db.close()
            raise KubeCacheError(f"{path}: {index_schema.other_schema(version)}; the agent converts it when it starts")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._db


def _connect(path: Path) -> sqlite3.Connection:
    log, shared = Path(f"{path}-wal"), Path(f"{path}-shm")
    uri = f"file:{quote(str(path))}?mode=ro"
    if not log.exists():  # nobody has it open: an open database has a log from its first transaction on
        return _open(f"{uri}&immutable=1")
    if shared.exists():
        return _open(uri)
    # Left by a crash: SQLite would have to create the shared memory to read the log.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for name in (path, log):
            with suppress(FileNotFoundError):
                shutil.copyfile(name, copy.with_name(name.name))
        source, memory = sqlite3.connect(copy), _open(":memory:")
        source.backup(memory)
        source.close()
        return memory


def _open(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
