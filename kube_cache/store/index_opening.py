"""Opens the index of a disk: as it is, converted from another build's, or fresh where it was lost."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict

import structlog

from kube_cache.errors import KubeCacheError
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import is_useless
from kube_cache.store.index import Index
from kube_cache.store.index_schema import OtherSchemaError
from kube_cache.store.layout import Layout

_log = structlog.get_logger("kube_cache.store")


def open_index(layout: Layout, disk: Disk, cache_id: str, *, convert: bool) -> tuple[Index, bool]:
    """Open the index. Returns it, and whether it is fresh: it was lost, corrupt, of another build or disk."""
    path = layout.absolute(layout.index)
    if disk.exists(layout.index):
        try:
            index = Index(path, convert=convert)
            if index.cache_id() == cache_id:
                if index.conversion is not None:
                    _log.warning("the index of another build was converted", **asdict(index.conversion))
                return index, index.conversion is not None
            index.close()
        except OtherSchemaError as error:
            raise KubeCacheError(f"{path}: {error}; the agent converts it when it starts") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not is_useless(error):
                raise
            _log.warning("the index is damaged and is rebuilt", error=str(error))
    for suffix in ("", "-wal", "-shm"):
        disk.unlink_if_there(f"{layout.index}{suffix}")
    index = Index(path)
    index.set_cache_id(cache_id)
    return index, True
