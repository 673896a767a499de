"""What the verbs of `kube-cache store` do: here or on another node, with the answer as a table or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog

from cli.marks import words_of_mark
from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.errors import Cancelled, KubeCacheError
from kube_cache.settings import Settings
from kube_cache.store.commands import handle
from kube_cache.store.node_store import NodeStore
from kube_cache.units import format_bytes, format_seconds

_Row = dict[str, Any]
_SIZES = {"bytes", "unique", "shared", "present", "size"}
_READ_ONLY = {"ls", "du"}
_COLUMNS = {
    "ls": ("digest", "uri", "files", "bytes", "verified", "pinned_by", "prefetched"),
    "du": ("digest", "uri", "bytes", "unique", "shared", "last_used", "pinned_by", "prefetched"),
    "verify": ("digest", "complete", "present"),
    "pin": ("digest", "owner", "until"),
    "unpin": ("digest", "owner", "removed"),
    "evict": ("digest", "size"),
}


def run(request: StoreRequest, settings: Settings, *, as_json: bool) -> int:
    """Run one verb here or on another node, and print the answer. Return the exit code."""
    # Logs go to standard error, because standard output is for the answer.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
    try:
        response = _run_remotely(request) if request.node else _run_here(request, settings)
    except (KubeCacheError, Cancelled) as error:
        response = StoreResponse(ExitCode.FAILED, message=error.message)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    if response.message:
        print(f"kube-cache: {response.message}", file=sys.stderr)
    if response.data:
        _print_data(request.verb, json.loads(response.data), as_json=as_json)
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
    if request.verb in _READ_ONLY:
        store = NodeStore.open_to_read(settings.store)
    else:
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
            for row in data:
                for problem in row["problems"]:
                    print(problem if len(data) == 1 else f"{row['digest'][:12]} {problem}")


def _print_du(data: Any) -> None:
    rows, file_system = data.pop("snapshots"), data.pop("file_system", None)
    for name, value in data.items():
        print(f"{name.replace('_', ' '):<17} {'-' if value < 0 else ''}{format_bytes(abs(value)):>11}")
    print(f"{'file system':<17} {file_system or 'not probed yet: an agent does at its start'}")
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
    table += [[_cell(name, row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(name: str, value: Any) -> str:
    """Format a value for people. name: of the column."""
    if name == "digest":
        return str(value)[:12]
    if name in _SIZES:
        return format_bytes(value)
    if name == "until" and value is not None:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(value))
    if name == "prefetched" and value is not None:
        return words_of_mark(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, list):
        more = f" +{len(value) - 3}" if len(value) > 3 else ""
        return ",".join(value[:3]) + more if value else "-"
    return str(value)
