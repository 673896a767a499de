"""What `kube-cache prefetch` does: one face of the workflow `Prefetch`. Decides nothing: prints, maps exit codes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.service import RPCError

from cli import prefetch_schedule
from cli.cluster import ask, complain, complain_of_sources, print_json
from cli.exit_codes import code_of_type
from kube_cache import names
from kube_cache.contracts.node import ExitCode
from kube_cache.contracts.prefetch import (
    MAX_DATASETS,
    MAX_NAMED_NODES,
    PrefetchPhase,
    PrefetchSpec,
    PrefetchStatus,
)
from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import InvalidRequest
from kube_cache.insight.sources import Sources
from kube_cache.temporal import prefetch_schedules
from kube_cache.temporal.executions import is_missing
from kube_cache.temporal.prefetches import running_prefetches, start_prefetch, status_of, statuses_of
from kube_cache.units import format_bytes, format_seconds, parse_duration

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[^=,\s]+=[^=,\s]*")
_LOOK_S: Final = 1.0
_MAX_SILENT: Final = 3
"""Looks in a row, of ten seconds each, that nobody answers before the operator counts as unreachable."""
_MAX_NAMED: Final = 5
_NO_ROOM: Final = frozenset({"InsufficientDisk", "BudgetExceeded"})
_ENDED: Final = frozenset({PrefetchPhase.EXPIRED, PrefetchPhase.CANCELLED})


def specify(
    uris: Sequence[str], *, name: str, namespace: str, nodes: str, selector: str, expires: str, **numbers: Any
) -> PrefetchSpec:
    """Check the arguments. Raises InvalidRequest."""
    datasets = [str(uri) for uri in parse_datasets(",".join(uris))]
    if len(datasets) > MAX_DATASETS:
        raise InvalidRequest(f"{len(datasets)} datasets are too many for one prefetch; name {MAX_DATASETS} at most")
    named = sorted({node.strip() for node in nodes.split(",") if node.strip()})
    if len(named) > MAX_NAMED_NODES:
        raise InvalidRequest(f"{len(named)} nodes are too many to name; label them and use --selector")
    labels = [part.strip() for part in selector.split(",") if part.strip()]
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise InvalidRequest(f"--selector: {label!r} is no label; write key=value, with commas between several")
    expires_s = parse_duration(expires, name="--expires")
    if not expires_s:
        raise InvalidRequest("--expires: a prefetch must live for some time; write it like 12h")
    spec = PrefetchSpec(
        namespace, name, datasets, nodes=named, selector=",".join(labels), expires_s=expires_s, **numbers
    )
    for what, value in (("--name", name or "x"), ("--namespace", namespace)):
        if not _NAME.fullmatch(value):
            raise InvalidRequest(f"{what}: {value!r} is no name; write at most 63 of a-z, 0-9 and -")
    return spec if name else replace(spec, name=_name_of(spec))


def _name_of(spec: PrefetchSpec) -> str:
    """Return the same name for the same data on the same nodes: typed twice, it is one prefetch."""
    what = json.dumps([spec.datasets, spec.nodes, spec.selector, spec.copies])
    stem = re.sub(r"[^a-z0-9]+", "-", spec.datasets[0].partition("://")[2].lower()).strip("-")[:40].strip("-")
    return f"{stem or 'data'}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def start(spec: PrefetchSpec, *, wait: bool, timeout: str, as_json: bool) -> int:
    """Start it, and with `wait` stay until the data is there. Return the exit code."""
    seconds = parse_duration(timeout, name="--timeout") if timeout else None
    return ask(lambda sources: start_at(sources, spec, wait=wait, timeout_s=seconds, as_json=as_json), kubernetes=False)


async def start_at(sources: Sources, spec: PrefetchSpec, *, wait: bool, timeout_s: float | None, as_json: bool) -> int:
    client = sources.temporal
    if client is None:
        return complain_of_sources(sources)
    try:
        await start_prefetch(client, spec)
    except RPCError as error:
        complain(f"Temporal refuses: {error.message}")
        return ExitCode.UNREACHABLE
    if wait:
        return await _wait(client, spec.namespace, spec.name, timeout_s, as_json=as_json)
    full = f"{spec.namespace}/{spec.name}"
    if as_json:
        print_json({"namespace": spec.namespace, "name": spec.name, "workflow": names.prefetch_id(*full.split("/"))})
    else:
        print(f"asked: prefetch {full}; `kube-cache prefetch status {full}` tells what becomes of it")
    return ExitCode.DONE


async def _wait(client: Client, namespace: str, name: str, timeout_s: float | None, *, as_json: bool) -> int:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    told, silent = "", 0
    while True:
        late = deadline is not None and time.monotonic() > deadline
        try:
            status = await status_of(client, namespace, name)
        except (RPCError, WorkflowQueryFailedError) as error:
            silent += 1
            if silent < _MAX_SILENT and not late:
                continue
            complain(f"no operator answers: {error}; is `kube-cache operator` running, with this Temporal namespace?")
            return ExitCode.UNREACHABLE
        except WorkflowFailureError as error:
            complain(f"the prefetch has failed: {error.cause}")
            return ExitCode.FAILED
        silent = 0
        code = _code_of(status)
        if code is None and late:
            complain("time is up; the prefetch goes on")
            code = ExitCode.FAILED
        if code is not None:
            _print(status, as_json=as_json)
            return code
        if (line := _line(status)) != told:
            complain(line)
            told = line
        await asyncio.sleep(_LOOK_S)


def _code_of(status: PrefetchStatus) -> ExitCode | None:
    """Return the exit code of a wait that is over; None while it goes on."""
    if status.phase == PrefetchPhase.READY:
        return ExitCode.DONE
    if status.phase in _ENDED:
        return ExitCode.FAILED
    if status.phase == PrefetchPhase.AWAITING_OPERATOR:
        return code_of_type(status.message.partition(":")[0])
    if status.phase == PrefetchPhase.WAITING and _NO_ROOM & {each.error.type for each in status.failures.values()}:
        return ExitCode.NO_ROOM
    return None


def _line(status: PrefetchStatus) -> str:
    return f"{status.namespace}/{status.name}: {status.phase}, {status.percent} %: {status.message}"


def show(prefetch: str, *, as_json: bool) -> int:
    return ask(lambda sources: show_at(sources, prefetch, as_json=as_json), kubernetes=False)


async def show_at(sources: Sources, prefetch: str, *, as_json: bool) -> int:
    """Print one prefetch. Raises InvalidRequest."""
    namespace, name = parse_name(prefetch)
    if sources.temporal is None:
        return complain_of_sources(sources)
    try:
        status = await prefetch_schedule.status_of(sources.temporal, namespace, name)
    except RPCError as error:
        return _complain_of(prefetch, error)
    except (WorkflowQueryFailedError, WorkflowFailureError) as error:
        complain(f"prefetch {prefetch} tells nothing: {error}")
        return ExitCode.FAILED
    _print(status, as_json=as_json)
    return ExitCode.DONE


def _print(status: PrefetchStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(document(status))
        return
    print(_line(status))
    for uri in status.datasets:
        print(f"  dataset  {uri}")
    print(f"  nodes    {status.ready} ready of {status.wanted} wanted; {status.matched} match")
    print(f"  fetched  {format_bytes(status.fetched_bytes)}")
    if status.phase not in _ENDED and status.expires_at:
        print(f"  expires  in {format_seconds(max(0.0, status.expires_at - time.time()))}")
    if status.busy:
        print(f"  fetch    {_some(status.busy)}")
    if status.yielding:
        print(
            f"  yield    {_some(status.yielding)}; they stand back while other downloads run there, and go on by themselves"
        )
    for node, failure in sorted(status.failures.items()):
        again_s = max(0.0, failure.until - time.time())
        print(f"  failed   {node}: {failure.error.type}: {failure.error.message}; again in {format_seconds(again_s)}")


def _some(nodes: Sequence[str]) -> str:
    more = len(nodes) - _MAX_NAMED
    return f"{', '.join(nodes[:_MAX_NAMED])}{f' and {more} more' if more > 0 else ''}"


def document(status: PrefetchStatus) -> dict[str, Any]:
    """Compose what `--json` prints; docs/operate/cli.md explains the keys."""
    return {
        "namespace": status.namespace,
        "name": status.name,
        "phase": status.phase,
        "message": status.message,
        "percent": status.percent,
        "datasets": status.datasets,
        "matched": status.matched,
        "wanted": status.wanted,
        "ready": status.ready,
        "ready_bytes": status.ready_bytes,
        "total_bytes": status.total_bytes,
        "fetched_bytes": status.fetched_bytes,
        "partial_bytes": status.partial_bytes,
        "fetching": status.busy,
        "yielding": status.yielding,
        "failures": [
            {"node": node, "error": each.error.type, "message": each.error.message, "again_at": each.until}
            for node, each in sorted(status.failures.items())
        ],
        "expires_at": status.expires_at,
        "spec": asdict(status.spec) if status.spec is not None else None,
    }


def list_all(*, namespace: str, limit: int, as_json: bool) -> int:
    return ask(lambda sources: list_at(sources, namespace, limit, as_json=as_json), kubernetes=False)


async def list_at(sources: Sources, namespace: str, limit: int, *, as_json: bool) -> int:
    client = sources.temporal
    if client is None:
        return complain_of_sources(sources)
    try:
        everything = {(each.namespace, each.name) async for each in running_prefetches(client)}
        everything |= {each[:2] async for each in prefetch_schedules.scheduled(client)}
    except RPCError as error:
        complain(f"Temporal tells nothing: {error.message}")
        return ExitCode.UNREACHABLE
    found = sorted(each for each in everything if namespace in {"", each[0]})
    rows = await statuses_of(client, found[:limit], prefetch_schedule.status_of)
    if as_json:
        print_json({"prefetches": [document(row) for row in rows], "shown": len(rows), "total": len(found)})
        return ExitCode.DONE
    if not rows:
        complain("no prefetch lives or has a schedule")
        return ExitCode.DONE
    Console().print(_table(rows))
    if len(found) > limit:
        complain(f"{len(found) - limit} more rows are not shown (--limit)")
    return ExitCode.DONE


def _table(rows: Sequence[PrefetchStatus]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("PREFETCH", "PHASE"):
        table.add_column(name, overflow="fold")
    for name in ("PERCENT", "NODES", "BYTES", "EXPIRES IN"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("DATASETS", overflow="fold")
    for row in rows:
        table.add_row(
            f"{row.namespace}/{row.name}",
            row.phase,
            f"{row.percent} %",
            f"{row.ready}/{row.wanted}",
            format_bytes(row.ready_bytes),
            format_seconds(max(0.0, row.expires_at - time.time())) if row.expires_at else "-",
            ", ".join(row.datasets),
        )
    return table


def ask_for(verb: str, prefetch: str, *, as_json: bool) -> int:
    return ask(lambda sources: signal_at(sources, verb, prefetch, as_json=as_json), kubernetes=False)


async def signal_at(sources: Sources, verb: str, prefetch: str, *, as_json: bool) -> int:
    """Send the signal. Raises InvalidRequest."""
    namespace, name = parse_name(prefetch)
    if sources.temporal is None:
        return complain_of_sources(sources)
    try:
        has_schedule = await prefetch_schedule.ask(sources.temporal, verb, namespace, name)
        await sources.temporal.get_workflow_handle(names.prefetch_id(namespace, name)).signal(verb)
    except RPCError as error:
        if not (is_missing(error) and has_schedule):
            return _complain_of(prefetch, error)
    if as_json:
        print_json({"namespace": namespace, "name": name, "signal": verb})
    else:
        print(f"asked: {verb} of prefetch {namespace}/{name}")
    return ExitCode.DONE


def parse_name(text: str) -> tuple[str, str]:
    """Split [NAMESPACE/]NAME. Raises InvalidRequest."""
    namespace, _, name = text.rpartition("/")
    namespace = namespace or "default"
    if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise InvalidRequest(f"{text!r} names no prefetch: write NAMESPACE/NAME, as `kube-cache prefetch list` does")
    return namespace, name


def _complain_of(prefetch: str, error: RPCError) -> int:
    if is_missing(error):
        complain(f"no prefetch {prefetch} lives or has a schedule; `kube-cache prefetch list` shows those that do")
        return ExitCode.ABSENT
    complain(f"Temporal or the operator tells nothing: {error.message}")
    return ExitCode.UNREACHABLE
