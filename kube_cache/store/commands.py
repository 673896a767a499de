"""What `kube-cache store VERB` does to a store and what it answers, as JSON: the same at a shell on the node and off it.

Asked on the node, the command line calls this; asked off it, the agent does (`store_command`). It prints nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.errors import InvalidRequest, KubeCacheError, SnapshotInUse
from kube_cache.store.damage import BadObject
from kube_cache.store.node_store import NodeStore
from kube_cache.units import parse_duration

# Half of what Temporal takes as one payload (2 MiB).
MOST_BYTES = 1 << 20
_Rows = list[Any]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Of what may take hours."""

    beat: Callable[[], object] = lambda: None
    cancelled: Callable[[], bool] = lambda: False

    def should_stop(self) -> bool:
        self.beat()
        return self.cancelled()


class _Absent(KubeCacheError):
    retryable = False


def answer(store: NodeStore, ask: StoreRequest, watcher: Watcher | None = None) -> StoreResponse:
    """Errors are answers: a code and a message. Raises Cancelled."""
    try:
        code, data = _VERBS[ask.verb](store, ask, watcher or Watcher())
    except SnapshotInUse as error:
        return StoreResponse(ExitCode.REFUSED, message=error.message)
    except _Absent as error:
        return StoreResponse(ExitCode.ABSENT, message=error.message)
    except InvalidRequest as error:
        return StoreResponse(ExitCode.USAGE, message=error.message)
    return StoreResponse(code, json.dumps(data))


def bounded(verb: str, found: StoreResponse, most_bytes: int = MOST_BYTES) -> StoreResponse:
    """Rows at the end are left out until it fits, and counted."""
    size = len(found.data)
    if size <= most_bytes:
        return found
    data = json.loads(found.data)
    rows = _rows(verb, data)
    whole = len(rows)
    while size > most_bytes and rows:
        del rows[min(len(rows) - 1, len(rows) * most_bytes // size) :]
        size = len(json.dumps(data))
    return replace(found, data=json.dumps(data), truncated_rows=whole - len(rows))


def _rows(verb: str, data: Any) -> _Rows:
    """The part that may be long."""
    rows: _Rows = {
        "du": lambda: data["snapshots"],
        "scrub": lambda: data["bad"],
        "verify": lambda: data[0]["problems"],
    }.get(verb, lambda: data)()
    return rows


def _ls(store: NodeStore, _ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    pins = store.pins()
    return ExitCode.DONE, [
        {
            "digest": one.digest,
            "uri": one.uri,
            "files": one.files,
            "bytes": one.bytes,
            "verified": str(one.verified),
            "pinned_by": [pin.owner for pin in pins if pin.digest == one.digest],
        }
        for one in store.snapshots()
    ]


def _du(store: NodeStore, _ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    usage = store.usage()
    room = usage.room
    return ExitCode.DONE, {
        "capacity": room.capacity_bytes,
        "used": room.used_bytes,
        "usable": room.free_bytes,
        "reserved": room.reserved_bytes,
        "kept_free": room.kept_bytes,
        "free_on_the_disk": room.disk_free_bytes,
        "incoming": usage.incoming_bytes,
        "quarantine": usage.quarantine_bytes,
        "unlinked": usage.unlinked_bytes,
        "snapshots": [
            {
                "digest": one.digest,
                "uri": one.uri,
                "bytes": one.bytes,
                "unique": one.unique_bytes,
                "shared": one.shared_bytes,
                "last_used": one.last_used,
                "pinned_by": one.pinned_by,
            }
            for one in usage.snapshots
        ],
    }


def _find(store: NodeStore, ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    return ExitCode.DONE, [{"digest": _whole(store, ask.digest), "cache_id": store.cache_id}]


def _verify(store: NodeStore, ask: StoreRequest, watcher: Watcher) -> tuple[int, Any]:
    digest = _whole(store, ask.digest)
    if ask.full:
        state = store.check_full(digest, beat=watcher.beat, cancelled=watcher.cancelled)
    else:
        state = store.check(digest)
    row = {"digest": digest, "complete": state.complete, "present": state.present_bytes, "problems": state.problems}
    return ExitCode.DONE if state.complete else ExitCode.DAMAGED, [row]


def _pin(store: NodeStore, ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    digest = _whole(store, ask.digest)
    until = time.time() + parse_duration(ask.duration, name="--for") if ask.duration else None
    store.pin(digest, ask.owner, until=until)
    return ExitCode.DONE, [{"digest": digest, "owner": ask.owner, "until": until}]


def _unpin(store: NodeStore, ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    digests = {pin.digest for pin in store.pins()} | {one.digest for one in store.snapshots()}
    digest = _only(digests, ask.digest)
    removed = store.unpin(digest, ask.owner)
    return ExitCode.DONE, [{"digest": digest, "owner": ask.owner, "removed": removed}]


def _evict(store: NodeStore, ask: StoreRequest, _watcher: Watcher) -> tuple[int, Any]:
    digest = _whole(store, ask.digest)
    return ExitCode.DONE, [{"digest": digest, "size": store.evict(digest)}]


def _scrub(store: NodeStore, ask: StoreRequest, watcher: Watcher) -> tuple[int, Any]:
    bad: list[BadObject] = []
    result = store.scrub(ask.rate, cancelled=watcher.should_stop, on_bad=bad.append)
    return ExitCode.DAMAGED if bad else ExitCode.DONE, {
        "objects": result.objects,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "bad": [{"digest": one.digest, "path": one.path, "object": one.object, "reason": one.reason} for one in bad],
    }


_VERBS: dict[str, Callable[[NodeStore, StoreRequest, Watcher], tuple[int, Any]]] = {
    "ls": _ls,
    "du": _du,
    "find": _find,  # for the command line off the node: what an entity is called
    "verify": _verify,
    "pin": _pin,
    "unpin": _unpin,
    "evict": _evict,
    "scrub": _scrub,
}


def _whole(store: NodeStore, beginning: str) -> str:
    return _only({one.digest for one in store.snapshots()}, beginning)


def _only(digests: set[str], beginning: str) -> str:
    found = sorted(digest for digest in digests if digest.startswith(beginning))
    if not found:
        raise _Absent(f"no snapshot begins with {beginning!r}; see `kube-cache store ls`")
    if len(found) > 1:
        raise InvalidRequest(
            f"{beginning!r} begins {len(found)} digests ({', '.join(one[:16] for one in found[:4])}); write more of it"
        )
    return found[0]
