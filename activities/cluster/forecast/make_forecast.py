"""`make_forecast` and `carry_out_forecast`: the two activities of a run of the forecast. Operator queue.

The first changes nothing: it asks Prometheus and makes the next report in a process of its own (`child`). The second
starts, renews and ends `Prefetch` workflows, as any other face of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
import time
from asyncio.subprocess import PIPE

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.cluster.forecast.child import Answer, Question
from activities.cluster.heartbeats import at_once, heartbeats
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.forecast import (
    CarryOutInput,
    DatasetState,
    ForecastRecord,
    ForecastReport,
    MadeForecast,
    MakeForecastInput,
    RunState,
)
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.errors import ForecastFailed
from kube_cache.forecast.carried_out import ahead, renew_s
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.temporal.forecasts import pack, unpack
from kube_cache.temporal.prefetches import end_prefetch, start_prefetch
from kube_cache.units import cut

_log = structlog.get_logger("kube_cache.forecast")
_MAX_WORDS = 500
CHILD = ["-c", "from activities.cluster.forecast.child import main; main()"]
"""What a child runs. Not as `-m`: what it pickles must be of the module and not of `__main__`."""


class ForecastActivities:
    def __init__(self, client: Client, settings: ForecastSettings, policy: Policy) -> None:
        self._client = client
        self._settings = settings
        self._policy = policy

    @activity.defn(name=names.MAKE_FORECAST)
    @as_application_errors
    async def make_forecast(self, arg: MakeForecastInput) -> MadeForecast:
        """Make the next report. Reads only, so running twice is harmless. Raises ForecastFailed."""
        before = _report(arg.packed)
        now = int(time.time() + arg.clock_offset_s)
        question = Question(before, arg.sizes, self._settings, now, self._policy.refetch_bytes_per_s)
        async with heartbeats():
            found = await _ask_child(question)
        if found.report is None:
            _log.warning("no forecast this time", state=found.state, reason=found.message)
            kept = ForecastRecord(
                found.state, found.message, now, len(before.datasets), 0, packed=arg.packed, sizes=arg.sizes
            )
            return MadeForecast(kept)
        acting = sum(each.state == DatasetState.ACTING for each in found.report.datasets)
        record = ForecastRecord(
            found.state, found.message, now, len(found.report.datasets), acting, packed=pack(found.report)
        )
        places = self._settings.max_placeholders > 0
        return MadeForecast(
            record,
            found.start,
            found.end,
            self._settings.namespace,
            found.unsized,
            places,
            ahead(found.report, self._settings) if places else [],
            renew_s(self._settings) if places else 0,
        )

    @activity.defn(name=names.CARRY_OUT_FORECAST)
    @as_application_errors
    async def carry_out_forecast(self, arg: CarryOutInput) -> None:
        """Start or renew prefetches, and end others. Twice is once, with a later end. Raises RPCError."""

        async def start(spec: PrefetchSpec) -> None:
            await start_prefetch(self._client, spec, self._policy)

        async def end(name: str) -> None:
            try:
                await end_prefetch(self._client, arg.namespace, name)
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:  # it has ended by itself
                    raise

        async with heartbeats():
            await at_once([*(start(spec) for spec in arg.start), *(end(name) for name in arg.end)])


def _report(packed: str) -> ForecastReport:
    """Read the report before; one that no build understands is begun anew, which costs scores and nothing else."""
    if not packed:
        return ForecastReport(RunState.NO_DATA)
    try:
        return unpack(packed)
    except (ValueError, TypeError) as error:
        _log.error("the last report of the forecast cannot be read and is begun anew", error=repr(error))
        return ForecastReport(RunState.NO_DATA)


async def _ask_child(question: Question) -> Answer:
    """Have a child answer; kill it when the activity is cancelled or out of time."""
    child = await asyncio.create_subprocess_exec(sys.executable, *CHILD, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        out, words = await child.communicate(pickle.dumps(question))
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        lines = words.decode(errors="replace").strip().splitlines()
        why = cut(lines[-1] if lines else "it said nothing", _MAX_WORDS)
        raise ForecastFailed(f"the process that forecasts ended with code {child.returncode}: {why}")
    answer = pickle.loads(out)  # noqa: S301 -- of our own child
    assert isinstance(answer, Answer)
    return answer
