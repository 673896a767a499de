"""The verbs of `kube-cache store` on a `NodeStore`, each answered as JSON: the same at a shell on the node and off it.

On the node the command line calls `handle`; off the node the agent does (`store_command`). Prints nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import InvalidRequest, KubeCacheError, SnapshotInUse
from kube_cache.store.damage import BadObject
from kube_cache.store.node_store import NodeStore
from kube_cache.store.prefetched import Mark
from kube_cache.units import parse_duration

MAX_BYTES = 1 << 20
"""Maximum size of an answer that goes through Temporal: half of its limit for one payload (2 MiB)."""
_MAX_NAMED_DIGESTS = 4
_Rows = list[Any]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Heartbeat and cancellation of a verb that may take hours."""

    beat: Callable[[], object] = lambda: None
    cancelled: Callable[[], bool] = lambda: False

    def beat_and_ask(self) -> bool:
        """Send a heartbeat. Returns True if the verb is to stop."""
        self.beat()
        return self.cancelled()


class _NoSuchSnapshot(KubeCacheError):
    retryable = False


def handle(store: NodeStore, request: StoreRequest, callbacks: Callbacks | None = None) -> StoreResponse:
    """Carry out the verb. Refusals and wrong usage are responses with a code and a message. Raises Cancelled."""
    try:
        code, data = _VERBS[request.verb](store, request, callbacks or Callbacks())
    except SnapshotInUse as error:
        return StoreResponse(ExitCode.REFUSED, message=error.message)
    except _NoSuchSnapshot as error:
        return StoreResponse(ExitCode.ABSENT, message=error.message)
    except InvalidRequest as error:
        return StoreResponse(ExitCode.USAGE, message=error.message)
    return StoreResponse(code, json.dumps(data))


def truncate(verb: str, response: StoreResponse, max_bytes: int = MAX_BYTES) -> StoreResponse:
    """Leave out rows at the end until the response fits, and count them in `truncated_rows`."""
    size = len(response.data)
    if size <= max_bytes:
        return response
    data = json.loads(response.data)
    rows = _rows(verb, data)
    total = len(rows)
    while size > max_bytes and rows:
        del rows[min(len(rows) - 1, len(rows) * max_bytes // size) :]
        size = len(json.dumps(data))
    return replace(response, data=json.dumps(data), truncated_rows=total - len(rows))


def _rows(verb: str, data: Any) -> _Rows:
    """Return the part of the answer that may be long."""
    rows: _Rows = {
        "du": lambda: data["snapshots"],
        "scrub": lambda: data["bad"],
        "verify": lambda: data[0]["problems"] if len(data) == 1 else data,
    }.get(verb, lambda: data)()
    return rows


def _prefetched(mark: Mark | None) -> Any:
    """Say who wants a snapshot kept and until when; None for one that no prefetch has touched."""
    if mark is None:
        return None
    return {"by": sorted(mark.until), "until": max(mark.until.values(), default=None), "used": mark.used}


def _ls(store: NodeStore, _request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    pins, marks = store.pins(), store.prefetched()
    return ExitCode.DONE, [
        {
            "digest": header.digest,
            "uri": str(header.uri),
            "files": header.files,
            "bytes": header.bytes,
            "verified": str(header.verified) if header.is_readable else f"manifest of version {header.version}",
            "pinned_by": [pin.owner for pin in pins if pin.digest == header.digest],
            "prefetched": _prefetched(marks.get(header.digest)),
        }
        for header in store.snapshots()
    ]


def _du(store: NodeStore, _request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    usage = store.usage()
    capacity = usage.capacity
    capabilities, marks = store.capabilities(), store.prefetched()
    return ExitCode.DONE, {
        "capacity": capacity.capacity_bytes,
        "used": capacity.used_bytes,
        "usable": capacity.free_bytes,
        "reserved": capacity.reserved_bytes,
        "kept_free": capacity.kept_bytes,
        "free_on_the_disk": capacity.disk_free_bytes,
        "incoming": usage.incoming_bytes,
        "quarantine": usage.quarantine_bytes,
        "unlinked": usage.unlinked_bytes,
        "file_system": capabilities.summary() if capabilities else None,
        "snapshots": [
            {
                "digest": snapshot.digest,
                "uri": snapshot.uri,
                "bytes": snapshot.bytes,
                "unique": snapshot.unique_bytes,
                "shared": snapshot.shared_bytes,
                "last_used": snapshot.last_used,
                "pinned_by": snapshot.pinned_by,
                "prefetched": _prefetched(marks.get(snapshot.digest)),
            }
            for snapshot in usage.snapshots
        ],
    }


def _find(store: NodeStore, request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    return ExitCode.DONE, [{"digest": _full_digest(store, request.digest), "cache_id": store.cache_id}]


def _verify(store: NodeStore, request: StoreRequest, callbacks: Callbacks) -> tuple[int, Any]:
    """Check one snapshot, or all of them where none is named."""
    if request.digest:
        digests = [_full_digest(store, request.digest)]
    else:
        digests = [header.digest for header in store.snapshots()]
    rows = []
    for digest in digests:
        if request.full:
            state = store.check_full(digest, beat=callbacks.beat, cancelled=callbacks.cancelled)
        else:
            state = store.check(digest)
        rows.append(
            {"digest": digest, "complete": state.complete, "present": state.present_bytes, "problems": state.problems}
        )
    return ExitCode.DONE if all(row["complete"] for row in rows) else ExitCode.DAMAGED, rows


def _pin(store: NodeStore, request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    digest = _full_digest(store, request.digest)
    until = time.time() + parse_duration(request.duration, name="--for") if request.duration else None
    store.pin(digest, request.owner, until=until)
    return ExitCode.DONE, [{"digest": digest, "owner": request.owner, "until": until}]


def _unpin(store: NodeStore, request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    if "://" in request.digest:
        digest = _full_digest(store, request.digest)
    else:  # a pin may outlive its snapshot
        pinned = {pin.digest for pin in store.pins()}
        digest = _unique_match(pinned | {header.digest for header in store.snapshots()}, request.digest)
    removed = store.unpin(digest, request.owner)
    return ExitCode.DONE, [{"digest": digest, "owner": request.owner, "removed": removed}]


def _evict(store: NodeStore, request: StoreRequest, _callbacks: Callbacks) -> tuple[int, Any]:
    digest = _full_digest(store, request.digest)
    return ExitCode.DONE, [{"digest": digest, "size": store.evict(digest)}]


def _scrub(store: NodeStore, request: StoreRequest, callbacks: Callbacks) -> tuple[int, Any]:
    bad: list[BadObject] = []
    result = store.scrub(request.rate, cancelled=callbacks.beat_and_ask, on_bad=bad.append)
    return ExitCode.DAMAGED if bad else ExitCode.DONE, {
        "objects": result.objects,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "bad": [
            {"digest": object_.digest, "path": object_.path, "object": object_.object, "reason": object_.reason}
            for object_ in bad
        ],
    }


_VERBS: dict[str, Callable[[NodeStore, StoreRequest, Callbacks], tuple[int, Any]]] = {
    "ls": _ls,
    "du": _du,
    "find": _find,  # for the command line off the node, which composes an entity's id of the answer
    "verify": _verify,
    "pin": _pin,
    "unpin": _unpin,
    "evict": _evict,
    "scrub": _scrub,
}


def _full_digest(store: NodeStore, wanted: str) -> str:
    """Find the visible snapshot whose digest begins so, or the only one of the dataset with this URI.

    Raises _NoSuchSnapshot, InvalidRequest.
    """
    headers = store.snapshots()
    if "://" not in wanted:
        return _unique_match({header.digest for header in headers}, wanted)
    uri = DatasetUri.parse(wanted)
    digests = [header.digest for header in headers if str(header.uri).rstrip("/") == str(uri).rstrip("/")]
    if not digests:
        raise _NoSuchSnapshot(f"no snapshot of {wanted}; see `kube-cache store ls`")
    if len(digests) > 1:
        named = ", ".join(digest[:16] for digest in digests[:_MAX_NAMED_DIGESTS])
        raise InvalidRequest(f"{wanted} has {len(digests)} snapshots ({named}); name one by its digest")
    return digests[0]


def _unique_match(digests: set[str], beginning: str) -> str:
    matches = sorted(digest for digest in digests if digest.startswith(beginning))
    if not matches:
        raise _NoSuchSnapshot(f"no snapshot begins with {beginning!r}; see `kube-cache store ls`")
    if len(matches) > 1:
        named = ", ".join(digest[:16] for digest in matches[:_MAX_NAMED_DIGESTS])
        raise InvalidRequest(f"{beginning!r} begins {len(matches)} digests ({named}); write more of it")
    return matches[0]
