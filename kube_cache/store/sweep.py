"""The sweep of what nobody will use any more, once a minute while the agent runs, and not only at its start.

Parts and journals of abandoned downloads, objects in quarantine and objects that no snapshot links go when they are
older than the settings allow; an agent may run for months. Touches nothing that a running download owns.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

import structlog

from kube_cache.store import prefetched, recovery, removal
from kube_cache.store.context import StoreContext
from kube_cache.store.filesystem.probe import SCRATCH_PREFIX
from kube_cache.store.reclaimable import MAX_UNLINKED

_log = structlog.get_logger("kube_cache.store")
_SCRATCH_S: Final = 3600.0
"""Age of a scratch folder that its probe has left behind for sure, in seconds."""


def sweep(context: StoreContext) -> int:
    """Delete what is too old. Returns the number of deleted files. Running twice deletes nothing the second time.

    Does nothing while another process downloads: what that owns, only its memory knows. A download of this process
    claims its objects before it enters `exclusive`, so it is either seen here or begins after the sweep.
    """
    with _without_other_writers(context) as alone:
        if not alone:
            return 0
        with context.exclusive():
            removed = recovery.clean_incoming(context) + recovery.clean_quarantine(context)
            removed += removal.delete_unlinked(context, _expired(context)) + _clean_scratch(context)
            prefetched.forget_absent(context.index, set(context.digests()))
    if removed:
        _log.info("swept", root=str(context.layout.root), removed=removed)
    return removed


@contextlib.contextmanager
def _without_other_writers(context: StoreContext) -> Iterator[bool]:
    """Keep other processes from downloading. Yields False if one does."""
    if context.is_writer():
        yield True
        return
    fd = context.try_writer_lock()
    try:
        yield fd is not None or context.is_writer()
    finally:
        if fd is not None:
            os.close(fd)


def _expired(context: StoreContext) -> list[str]:
    """Return ids of the objects that no snapshot has linked for too long."""
    limit = time.time() - context.settings.keep_partial_s
    return [row.id for row in context.index.unlinked(MAX_UNLINKED) if row.landed is not None and row.landed < limit]


def _clean_scratch(context: StoreContext) -> int:
    """Delete the folders of probes that were killed."""
    limit = time.time() - _SCRATCH_S
    entries = context.disk.entries(context.layout.top)
    old = [name for name, found in entries if name.startswith(SCRATCH_PREFIX) and found.st_mtime < limit]
    for name in old:
        context.disk.remove_tree(name)
    return len(old)
