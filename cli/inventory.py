"""`kube-cache inventory`: which nodes hold which data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from cli import store_remote
from cli.cluster import ask, complain, complain_of_sources, print_json
from cli.marks import clock, words_of_mark
from kube_cache.contracts.node import ExitCode, StoreRequest
from kube_cache.insight import prefetches
from kube_cache.insight.holdings import MAX_NAMED, DatasetHoldings, by_dataset, list_holdings
from kube_cache.insight.prefetches import Kept
from kube_cache.insight.sources import Sources
from kube_cache.temporal.holdings import Holding
from kube_cache.units import format_bytes

_NAMED = 3
"""Nodes that a row of the table names."""


def run(*, node: str, dataset: str, limit: int, as_json: bool) -> int:
    """Print a row for each dataset; with a node, one for each snapshot on it. Return the exit code."""
    return ask(
        lambda sources: _run(sources, node=node, dataset=dataset, limit=limit, as_json=as_json), kubernetes=False
    )


async def _run(sources: Sources, *, node: str, dataset: str, limit: int, as_json: bool) -> int:
    found = await sources.ask_temporal(lambda client: list_holdings(client, node=node, dataset=dataset))
    if found is None:
        return complain_of_sources(sources)
    rows: list[Any] = sorted(found, key=lambda each: (-each.bytes, each.dataset)) if node else by_dataset(found)
    if node:
        # Which copy is a prefetched one only the disk knows: of copies any node may hold the data for other reasons.
        marks = await _marks(sources, node) if rows else {}
        return _show_node(node, rows, marks, limit=limit, as_json=as_json)
    kept = prefetches.by_dataset(await sources.ask_temporal(prefetches.ask) or ())
    return _show_datasets(rows, kept, limit=limit, as_json=as_json)


async def _marks(sources: Sources, node: str) -> dict[str, Any]:
    """Ask the node's agent which snapshots are prefetched; by digest, and nothing where it does not answer."""
    client = sources.temporal
    assert client is not None  # it has just answered
    response = await store_remote.ask(client, StoreRequest(node, "ls"))
    if response.code != ExitCode.DONE:
        complain(f"which of them are prefetched is not known: {response.message}")
        return {}
    return {row["digest"]: row.get("prefetched") for row in json.loads(response.data)}


def _show_node(node: str, rows: list[Holding], marks: dict[str, Any], *, limit: int, as_json: bool) -> int:
    if as_json:
        documents = [{**row._asdict(), "prefetched": marks.get(row.digest)} for row in rows[:limit]]
        print_json({"holdings": documents, "shown": len(documents), "total": len(rows)})
        return ExitCode.DONE
    if not rows:
        complain(f"node {node} holds nothing of the kind")
        return ExitCode.DONE
    Console().print(_node_table(rows[:limit], marks))
    return _complain_of_hidden(rows, limit)


def _show_datasets(
    rows: list[DatasetHoldings], kept: Mapping[str, Sequence[Kept]], *, limit: int, as_json: bool
) -> int:
    if as_json:
        documents = [_of_dataset(row, kept.get(row.dataset, ())) for row in rows[:limit]]
        print_json({"datasets": documents, "shown": len(documents), "total": len(rows)})
        return ExitCode.DONE
    if not rows:
        complain("no node holds anything of the kind")
        return ExitCode.DONE
    Console().print(_dataset_table(rows[:limit], kept))
    return _complain_of_hidden(rows, limit)


def _complain_of_hidden(rows: Sequence[Any], limit: int) -> int:
    if len(rows) > limit:
        complain(f"{len(rows) - limit} more rows are not shown (--limit)")
    return ExitCode.DONE


def _of_dataset(of: DatasetHoldings, kept: Sequence[Kept]) -> dict[str, Any]:
    return {**asdict(of), "snapshots": sorted(of.snapshots), "prefetched": [asdict(each) for each in kept[:MAX_NAMED]]}


def _node_table(holdings: list[Holding], marks: dict[str, Any]) -> Table:
    table = _table("DATASET", "SNAPSHOT", "STATE", right=("BYTES",), last=("PREFETCHED",))
    for each in holdings:
        mark = marks.get(each.digest)
        words = f"{words_of_mark(mark)} ({_owners(mark['by'])})" if mark else "-"
        table.add_row(each.dataset, each.digest[:12], each.phase, format_bytes(each.bytes), words)
    return table


def _owners(workflow_ids: Sequence[str]) -> str:
    """Name the prefetches. workflow_ids: as the marks have them."""
    named = [owner.removeprefix("prefetch/") for owner in workflow_ids]
    more = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {more} more" if more > 0 else "") if named else "let go"


def _of_prefetches(kept: Sequence[Kept]) -> str:
    if not kept:
        return "-"
    first, more = kept[0], len(kept) - 1
    return f"on {first.nodes} until {clock(first.until)} ({first.name}{f' and {more} more' if more else ''})"


def _dataset_table(datasets: list[DatasetHoldings], kept: Mapping[str, Sequence[Kept]]) -> Table:
    table = _table(
        "DATASET", right=("SNAPSHOTS", "READY ON", "FETCHED BY", "BYTES IN ALL"), last=("NODES", "PREFETCHED")
    )
    for of in datasets:
        more = of.ready - min(_NAMED, len(of.nodes))
        named = ", ".join(of.nodes[:_NAMED]) + (f" and {more} more" if more > 0 and of.nodes else "")
        table.add_row(
            of.dataset, str(len(of.snapshots)), str(of.ready), str(of.fetching), format_bytes(of.bytes), named or "-",
            _of_prefetches(kept.get(of.dataset, ())),
        )  # fmt: skip
    return table


def _table(*left: str, right: tuple[str, ...], last: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, overflow="fold")
    return table
