"""`kube-cache store`: the node's cache for people at a shell on the node. Tables by default, `--json` for scripts.

Exit codes: 0 done; 1 refused or damaged (the message says why); 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kube_cache.errors import KubeCacheError
from kube_cache.settings import Settings
from kube_cache.storage.store import NodeStore
from kube_cache.text import format_bytes


def add_parser(commands: Any) -> None:
    store = commands.add_parser("store", help="look at and care for this node's cache", description=__doc__)
    verbs = store.add_subparsers(dest="verb", required=True)
    for verb, text in (("ls", "snapshots, most recently used last"), ("du", "what the disk holds")):
        verbs.add_parser(verb, help=text).add_argument("--json", action="store_true")
    for verb, text in (
        ("verify", "read every byte of a snapshot against its checksum"),
        ("pin", "keep a snapshot"),
        ("unpin", "give it back"),
        ("evict", "remove it, unless it is pinned"),
    ):
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("digest", help="the snapshot's digest, or its beginning")
        parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace, settings: Settings) -> int:
    try:
        store = NodeStore.open(settings.store)
        answer = _act(store, args)
    except KubeCacheError as error:
        print(f"kube-cache: {error.message}", file=sys.stderr)
        return 1
    _show(answer, as_json=args.json)
    return 0


def _act(store: NodeStore, args: argparse.Namespace) -> list[dict[str, Any]]:
    pins = store.pins()
    if args.verb == "ls":
        return [
            {"digest": one.digest[:12], "uri": one.uri, "files": one.files, "bytes": one.bytes,
             "pins": sum(pin.digest == one.digest for pin in pins)}
            for one in store.snapshots()
        ]  # fmt: skip
    if args.verb == "du":
        room = store.room()
        return [{"capacity": room.capacity_bytes, "usable": room.free_bytes, "reserved": room.reserved_bytes}]
    digest = _whole(store, args.digest)
    if args.verb == "verify":
        state = store.check_full(digest)
        if not state.complete:
            raise KubeCacheError("; ".join(state.problems) or f"snapshot {digest[:12]} is not whole")
        return [{"digest": digest[:12], "bytes": state.present_bytes, "verified": True}]
    if args.verb == "evict":
        return [{"digest": digest[:12], "freed": store.evict(digest)}]
    (store.pin if args.verb == "pin" else store.unpin)(digest, "user/cli")
    return [{"digest": digest[:12], args.verb: True}]


def _whole(store: NodeStore, beginning: str) -> str:
    found = [one.digest for one in store.snapshots() if one.digest.startswith(beginning)]
    if len(found) != 1:
        raise KubeCacheError(f"{beginning!r} names {len(found)} snapshots; see `kube-cache store ls`")
    return found[0]


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            "  ".join(
                f"{key}={format_bytes(value) if key in ('bytes', 'capacity', 'usable', 'reserved', 'freed') else value}"
                for key, value in row.items()
            )
        )
