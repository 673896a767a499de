"""`kube-cache store`: the node's cache for people at a shell on the node. Tables by default, `--json` for scripts.

It may run beside the agent: what changes the store takes the same locks. It never fetches.

Exit codes: 0 done (for `verify` and `scrub`: and everything is sound); 1 the disk or the store failed, and the message says
why; 2 wrong usage; 3 refused, because somebody holds it (`evict`); 4 damage was found (`verify`, `scrub`); 5 no such snapshot.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from kube_cache.errors import Cancelled, InvalidRequest, KubeCacheError, SnapshotInUse
from kube_cache.settings import Settings
from kube_cache.storage.store import BadObject, NodeStore
from kube_cache.text import format_bytes, format_seconds, parse_duration

DONE, FAILED, USAGE, REFUSED, DAMAGED, ABSENT = range(6)
_Row = dict[str, Any]
_SIZES = {"bytes", "unique", "shared", "present", "size"}


class _Absent(KubeCacheError):
    retryable = False


def add_parser(commands: Any) -> None:
    store = commands.add_parser(
        "store",
        help="look at and care for this node's cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = store.add_subparsers(dest="verb", required=True, metavar="ls|du|verify|pin|unpin|evict|scrub")
    for verb, text in (("ls", "snapshots, least recently used first"), ("du", "what the disk holds, and for whom")):
        _json(verbs.add_parser(verb, help=text, description=text))
    for verb, text in (
        ("verify", "look at each file of a snapshot; with --full, read every byte against its checksum"),
        ("pin", "keep a snapshot until it is unpinned"),
        ("unpin", "give a pin back"),
        ("evict", "remove a snapshot and what only it holds, unless it is pinned"),
    ):
        parser = verbs.add_parser(verb, help=text, description=text)
        parser.add_argument("digest", help="the snapshot's digest, or its beginning")
        _json(parser)
        if verb == "verify":
            parser.add_argument("--full", action="store_true", help="read every byte; what fails is quarantined")
        if verb in {"pin", "unpin"}:
            parser.add_argument("--owner", default="user/cli", help="in whose name (default: %(default)s)")
        if verb == "pin":
            parser.add_argument(
                "--for", dest="duration", default="", help="how long, like 12h (default: until unpinned)"
            )
    scrub = verbs.add_parser("scrub", help="read everything against its checksums; what fails is quarantined")
    scrub.add_argument("--rate", type=_rate, default=None, help="MiB per second, 0 = no limit (default: the setting)")
    _json(scrub)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def _rate(text: str) -> float:
    rate = float(text)
    if rate < 0:
        raise argparse.ArgumentTypeError("a rate is not negative")
    return rate * (1 << 20)


def run(args: argparse.Namespace, settings: Settings) -> int:
    # Standard output is for the answer.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
    try:
        if not (settings.store.root / "cache-id").exists():
            raise KubeCacheError(f"{settings.store.root} is no cache; set KUBE_CACHE_STORE__ROOT to the agent's root")
        store = NodeStore.open(settings.store, tidy=False)
        try:
            return _VERBS[args.verb](store, args)
        finally:
            store.close()
    except SnapshotInUse as error:
        return _complain(error, REFUSED)
    except _Absent as error:
        return _complain(error, ABSENT)
    except InvalidRequest as error:
        return _complain(error, USAGE)
    except (KubeCacheError, Cancelled) as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return FAILED


def _complain(error: KubeCacheError, code: int) -> int:
    print(f"kube-cache: {error.message}", file=sys.stderr)
    return code


def _ls(store: NodeStore, args: argparse.Namespace) -> int:
    pins = store.pins()
    rows = [
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
    _show(rows, ("digest", "uri", "files", "bytes", "verified", "pinned_by"), as_json=args.json)
    return DONE


def _du(store: NodeStore, args: argparse.Namespace) -> int:
    usage = store.usage()
    room = usage.room
    sums = {
        "capacity": room.capacity_bytes,
        "used": room.used_bytes,
        "usable": room.free_bytes,
        "reserved": room.reserved_bytes,
        "kept free": room.kept_bytes,
        "free on the disk": room.disk_free_bytes,
        "incoming": usage.incoming_bytes,
        "quarantine": usage.quarantine_bytes,
        "unlinked": usage.unlinked_bytes,
    }
    rows: list[_Row] = [
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
    ]
    if args.json:
        print(json.dumps({name.replace(" ", "_"): value for name, value in sums.items()} | {"snapshots": rows}))
        return DONE
    for name, value in sums.items():
        print(f"{name:<17} {'-' if value < 0 else ''}{format_bytes(abs(value)):>11}")
    print()
    for row in rows:
        row["last_used"] = f"{format_seconds(max(0.0, time.time() - row['last_used']))} ago"
    _show(rows, ("digest", "uri", "bytes", "unique", "shared", "last_used", "pinned_by"), as_json=False)
    return DONE


def _verify(store: NodeStore, args: argparse.Namespace) -> int:
    digest = _whole(store, args.digest)
    state = store.check_full(digest) if args.full else store.check(digest)
    row = {"digest": digest, "complete": state.complete, "present": state.present_bytes, "problems": state.problems}
    _show([row], ("digest", "complete", "present"), as_json=args.json)
    if not args.json:
        for problem in state.problems:
            print(problem)
    return DONE if state.complete else DAMAGED


def _pin(store: NodeStore, args: argparse.Namespace) -> int:
    digest = _whole(store, args.digest)
    until = time.time() + parse_duration(args.duration, name="--for") if args.duration else None
    store.pin(digest, args.owner, until=until)
    _show([{"digest": digest, "owner": args.owner, "until": until}], ("digest", "owner", "until"), as_json=args.json)
    return DONE


def _unpin(store: NodeStore, args: argparse.Namespace) -> int:
    digests = {pin.digest for pin in store.pins()} | {one.digest for one in store.snapshots()}
    digest = _only(digests, args.digest)
    removed = store.unpin(digest, args.owner)
    _show(
        [{"digest": digest, "owner": args.owner, "removed": removed}], ("digest", "owner", "removed"), as_json=args.json
    )
    return DONE


def _evict(store: NodeStore, args: argparse.Namespace) -> int:
    digest = _whole(store, args.digest)
    freed = store.evict(digest)
    _show([{"digest": digest, "size": freed}], ("digest", "size"), as_json=args.json)
    return DONE


def _scrub(store: NodeStore, args: argparse.Namespace) -> int:
    bad: list[BadObject] = []
    result = store.scrub(args.rate, on_bad=bad.append)
    row = {
        "objects": result.objects,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        "bad": [{"digest": one.digest, "path": one.path, "object": one.object, "reason": one.reason} for one in bad],
    }
    if args.json:
        print(json.dumps(row))
    else:
        print(
            f"{result.objects} objects, {format_bytes(result.bytes)} in {format_seconds(result.seconds)}, {len(bad)} bad"
        )
        for one in bad:
            print(f"{one.digest[:12]} {one.path}: {one.reason}; quarantined, the next warm fetches it anew")
    return DAMAGED if bad else DONE


_VERBS: dict[str, Callable[[NodeStore, argparse.Namespace], int]] = {
    "ls": _ls,
    "du": _du,
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


def _show(rows: Sequence[_Row], columns: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    table = [[name.replace("_", " ").upper() for name in columns]]
    table += [[_cell(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(name: str, value: Any) -> str:
    if name == "digest":
        return str(value)[:12]
    if name in _SIZES:
        return format_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, list):
        more = f" +{len(value) - 3}" if len(value) > 3 else ""
        return ",".join(value[:3]) + more if value else "-"
    return str(value)
