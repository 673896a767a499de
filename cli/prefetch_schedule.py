"""What `kube-cache prefetch` does with schedules: make one, and find a prefetch that has one while none of it lives."""

from __future__ import annotations

from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cli.cluster import ask as ask_sources
from cli.cluster import complain, complain_of_sources, print_json
from kube_cache import names
from kube_cache.contracts.node import ExitCode
from kube_cache.contracts.prefetch import SCHEDULED, PrefetchPhase, PrefetchSchedule, PrefetchSpec, PrefetchStatus
from kube_cache.errors import InvalidRequest
from kube_cache.insight.sources import Sources
from kube_cache.temporal import prefetch_schedules, prefetches
from kube_cache.temporal.executions import is_missing
from kube_cache.units import parse_duration

_FIELDS: Final = 5
_ENDED: Final = frozenset({PrefetchPhase.EXPIRED, PrefetchPhase.CANCELLED})


def specify(cron: str, *, time_zone: str, window: str, wait: bool) -> PrefetchSchedule:
    """Check the arguments. Raises InvalidRequest."""
    if not cron:
        raise InvalidRequest("--window goes with --schedule; for a prefetch that begins now write --expires")
    if len(cron.split()) != _FIELDS:
        raise InvalidRequest(
            f"--schedule: {cron!r} is no cron expression; write five fields, minute, hour, day of the month, month, day"
            " of the week, like '0 8 * * 1-5'"
        )
    if wait:
        raise InvalidRequest("--wait waits for a prefetch that begins now; leave it out with --schedule")
    window_s = parse_duration(window, name="--window") if window else 0
    if not window_s:
        raise InvalidRequest("--schedule needs --window, how long each prefetch lives; write it like 10h")
    return PrefetchSchedule(cron, window_s, time_zone)


def start(spec: PrefetchSpec, schedule: PrefetchSchedule, *, as_json: bool) -> int:
    """Make the schedule, or change the one of this name. Return the exit code."""
    return ask_sources(lambda sources: start_at(sources, spec, schedule, as_json=as_json), kubernetes=False)


async def start_at(sources: Sources, spec: PrefetchSpec, schedule: PrefetchSchedule, *, as_json: bool) -> int:
    """Raises InvalidRequest for times that Temporal does not understand."""
    client = sources.temporal
    if client is None:
        return complain_of_sources(sources)
    try:
        await prefetch_schedules.ensure(client, spec, schedule)
        found = await prefetch_schedules.find(client, spec.namespace, spec.name)
    except RPCError as error:
        if error.status == RPCStatusCode.INVALID_ARGUMENT:
            what = f"{schedule.cron!r} in {schedule.time_zone!r}"
            raise InvalidRequest(f"--schedule, --time-zone: Temporal refuses {what}: {error.message}") from error
        complain(f"Temporal refuses: {error.message}")
        return ExitCode.UNREACHABLE
    full = f"{spec.namespace}/{spec.name}"
    next_at = found.next_at if found else 0.0
    if as_json:
        print_json(
            {
                "namespace": spec.namespace,
                "name": spec.name,
                "workflow": names.prefetch_id(spec.namespace, spec.name),
                "next_at": next_at,
            }
        )
    else:
        when = f"the next one begins at {prefetch_schedules.spoken(next_at)}" if next_at else "no time to begin is due"
        print(f"asked: prefetch {full} has a schedule; {when}; `kube-cache prefetch cancel {full}` ends it")
    return ExitCode.DONE


async def ask(client: Client, verb: str, namespace: str, name: str) -> bool:
    """Pause, resume or remove the schedule of a prefetch; False if it has none. Raises RPCError."""
    if verb == "cancel":
        return await prefetch_schedules.remove(client, namespace, name)
    return await prefetch_schedules.set_paused(client, namespace, name, paused=verb == "pause")


async def status_of(client: Client, namespace: str, name: str) -> PrefetchStatus:
    """As `kube_cache.temporal.prefetches.status_of`; between two windows it is the schedule that is told of."""
    ended: PrefetchStatus | None = None
    missing: RPCError | None = None
    try:
        ended = await prefetches.status_of(client, namespace, name)
        if ended.phase not in _ENDED:
            return ended
    except RPCError as error:
        if not is_missing(error):
            raise
        missing = error
    found = await prefetch_schedules.find(client, namespace, name)
    if found is not None:
        when = f"the next one begins at {prefetch_schedules.spoken(found.next_at)}" if found.next_at else "it is paused"
        datasets = ended.datasets if ended else []
        return PrefetchStatus(namespace, name, SCHEDULED, when, datasets, paused=found.paused)
    if ended is None:
        assert missing is not None
        raise missing
    return ended
