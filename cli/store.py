"""`kube-cache store`: a node's cache for people at a shell. Tables by default, `--json` for scripts. Downloads nothing.

On the node it may run beside the agent, since every change of the store takes the same locks. With `--node` it runs
anywhere where Temporal can be reached, and the node's agent does the work.

Exit codes: 0 done (for `verify` and `scrub`: and everything is sound); 1 the disk or the store failed, and the message
says why; 2 wrong usage; 3 refused, because a Pod or a pin holds the snapshot (`evict`); 4 damage was found
(`verify`, `scrub`); 5 no such snapshot; 6 the node, the operator or Temporal does not answer (`--node`).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog

from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.errors import Cancelled, KubeCacheError
from kube_cache.settings import Settings
from kube_cache.store.commands import handle
from kube_cache.store.node_store import NodeStore
from kube_cache.units import format_bytes, format_seconds

_Row = dict[str, Any]
_SIZES = {"bytes", "unique", "shared", "present", "size"}
_COLUMNS = {
    "ls": ("digest", "uri", "files", "bytes", "verified", "pinned_by"),
    "du": ("digest", "uri", "bytes", "unique", "shared", "last_used", "pinned_by"),
    "verify": ("digest", "complete", "present"),
    "pin": ("digest", "owner", "until"),
    "unpin": ("digest", "owner", "removed"),
    "evict": ("digest", "size"),
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `store` and its verbs. commands: the subparsers of `kube-cache`."""
    store: argparse.ArgumentParser = commands.add_parser(
        "store",
        help="inspect and maintain a node's cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = store.add_subparsers(dest="verb", required=True, metavar="ls|du|verify|pin|unpin|evict|scrub")
    for verb, text in (
        ("ls", "list snapshots, least recently used first"),
        ("du", "show the use of the disk, by snapshot and pin"),
    ):
        _add_common_arguments(verbs.add_parser(verb, help=text, description=text))
    for verb, text in (
        ("verify", "check each file of a snapshot; with --full, read every byte against its checksum"),
        ("pin", "keep a snapshot until it is unpinned"),
        ("unpin", "remove a pin"),
        ("evict", "remove a snapshot and the objects that only it links, unless it is pinned"),
    ):
        parser = verbs.add_parser(verb, help=text, description=text)
        parser.add_argument("digest", help="the snapshot's digest, or its beginning")
        _add_common_arguments(parser)
        if verb == "verify":
            parser.add_argument("--full", action="store_true", help="read every byte; quarantine damaged objects")
        if verb in {"pin", "unpin"}:
            parser.add_argument("--owner", default="user/cli", help="owner of the pin (default: %(default)s)")
        if verb == "pin":
            parser.add_argument(
                "--for", dest="duration", default="", help="how long, like 12h (default: until unpinned)"
            )
    scrub = verbs.add_parser("scrub", help="read every byte against its checksum; quarantine damaged objects")
    scrub.add_argument("--rate", type=_rate, default=None, help="MiB per second, 0 = no limit (default: the setting)")
    _add_common_arguments(scrub)
    return store


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--node", default="", help="ask the agent of this node, through Temporal (TEMPORAL_ADDRESS)")


def _rate(text: str) -> float:
    """Parse MiB per second into bytes per second."""
    rate = float(text)
    if rate < 0:
        raise argparse.ArgumentTypeError("a rate is not negative")
    return rate * (1 << 20)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run one verb here or on another node, and print the answer. Return the exit code."""
    # Logs go to standard error, because standard output is for the answer.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
    request = StoreRequest(
        args.node,
        args.verb,
        digest=getattr(args, "digest", ""),
        full=getattr(args, "full", False),
        owner=getattr(args, "owner", ""),
        duration=getattr(args, "duration", ""),
        rate=getattr(args, "rate", None),
    )
    try:
        response = _run_remotely(request) if request.node else _run_here(request, settings)
    except (KubeCacheError, Cancelled) as error:
        response = StoreResponse(ExitCode.FAILED, message=error.message)
    except KeyboardInterrupt:
        return ExitCode.FAILED
    if response.message:
        print(f"kube-cache: {response.message}", file=sys.stderr)
    if response.data:
        _print_data(args.verb, json.loads(response.data), as_json=args.json)
    if response.truncated_rows:
        print(
            f"kube-cache: {response.truncated_rows} more rows do not fit; run it on the node to see all",
            file=sys.stderr,
        )
    return response.code


def _run_here(request: StoreRequest, settings: Settings) -> StoreResponse:
    if not (settings.store.root / "cache-id").exists():
        raise KubeCacheError(
            f"{settings.store.root} is no cache; set KUBE_CACHE_STORE__ROOT to the agent's root, or name a node (--node)"
        )
    store = NodeStore.open(settings.store, recover=False)
    try:
        return handle(store, request)
    finally:
        store.close()


def _run_remotely(request: StoreRequest) -> StoreResponse:
    from cli import store_remote  # noqa: PLC0415 -- Temporal's client takes longer to import than `ls` to run

    return store_remote.run(request)


def _print_data(verb: str, data: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data))
    elif verb == "du":
        _print_du(data)
    elif verb == "scrub":
        _print_scrub(data)
    else:
        _print_table(data, _COLUMNS[verb])
        if verb == "verify":
            for problem in data[0]["problems"]:
                print(problem)


def _print_du(data: Any) -> None:
    rows = data.pop("snapshots")
    for name, value in data.items():
        print(f"{name.replace('_', ' '):<17} {'-' if value < 0 else ''}{format_bytes(abs(value)):>11}")
    print()
    for row in rows:
        row["last_used"] = f"{format_seconds(max(0.0, time.time() - row['last_used']))} ago"
    _print_table(rows, _COLUMNS["du"])


def _print_scrub(data: Any) -> None:
    bad = data["bad"]
    spent = format_seconds(data["seconds"])
    print(f"{data['objects']} objects, {format_bytes(data['bytes'])} in {spent}, {len(bad)} bad")
    for row in bad:
        print(f"{row['digest'][:12]} {row['path']}: {row['reason']}; quarantined, the next download fetches it again")


def _print_table(rows: Sequence[_Row], columns: tuple[str, ...]) -> None:
    table = [[name.replace("_", " ").upper() for name in columns]]
    table += [[_cell(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(name: str, value: Any) -> str:
    """Format a value for people. name: of the column."""
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
