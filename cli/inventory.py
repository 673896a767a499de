"""`kube-cache inventory`: which nodes hold which data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.cluster import ask, complain, complain_of_sources, print_json
from kube_cache.contracts.node import ExitCode
from kube_cache.insight.holdings import DatasetHoldings, by_dataset, list_holdings
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
    if as_json:
        documents = [_of_node(row) if node else _of_dataset(row) for row in rows[:limit]]
        print_json({"holdings" if node else "datasets": documents, "shown": len(documents), "total": len(rows)})
        return ExitCode.DONE
    if not rows:
        complain(f"{f'node {node}' if node else 'no node'} {'holds nothing' if node else 'holds anything'} of the kind")
        return ExitCode.DONE
    Console().print(_node_table(rows[:limit]) if node else _dataset_table(rows[:limit]))
    if len(rows) > limit:
        complain(f"{len(rows) - limit} more rows are not shown (--limit)")
    return ExitCode.DONE


def _of_node(holding: Holding) -> dict[str, Any]:
    return holding._asdict()


def _of_dataset(of: DatasetHoldings) -> dict[str, Any]:
    return {**asdict(of), "snapshots": sorted(of.snapshots)}


def _node_table(holdings: list[Holding]) -> Table:
    table = _table("DATASET", "SNAPSHOT", "STATE", right=("BYTES",))
    for each in holdings:
        table.add_row(each.dataset, each.digest[:12], each.phase, format_bytes(each.bytes))
    return table


def _dataset_table(datasets: list[DatasetHoldings]) -> Table:
    table = _table("DATASET", right=("SNAPSHOTS", "READY ON", "FETCHED BY", "BYTES IN ALL"), last="NODES")
    for of in datasets:
        more = of.ready - min(_NAMED, len(of.nodes))
        named = ", ".join(of.nodes[:_NAMED]) + (f" and {more} more" if more > 0 and of.nodes else "")
        table.add_row(
            of.dataset, str(len(of.snapshots)), str(of.ready), str(of.fetching), format_bytes(of.bytes), named or "-"
        )
    return table


def _table(*left: str, right: tuple[str, ...], last: str = "") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    if last:
        table.add_column(last, overflow="fold")
    return table
