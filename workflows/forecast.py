"""`Forecast`: one run of the forecast. The schedule starts one for each slot, and hands it the result of the last one.

Decides what follows from a report: whose size is asked for, and that plans are carried out only when a new report
stands. All numbers come from activities. What goes wrong is the run's state and fails no run, because the result of the
last run that succeeded is the forecast's only memory.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import PodRef
    from kube_cache.contracts.forecast import (
        CarryOutInput,
        ForecastInput,
        ForecastRecord,
        MadeForecast,
        MakeForecastInput,
        PlacePlaceholdersInput,
        RunState,
        Sized,
    )
    from kube_cache.contracts.warm_pod import ResolveInput
    from workflows import cluster_calls
    from workflows.failures import error_info

# Of all attempts: a dataset that cannot be listed by then is told, and asked for again in a day.
_RESOLVE_WITHIN = timedelta(minutes=2)


@workflow.defn(name=names.FORECAST)
class Forecast:
    @workflow.run
    async def run(self, arg: ForecastInput) -> ForecastRecord:
        before = arg.record
        if before is None and workflow.has_last_completion_result():
            before = workflow.get_last_completion_result(ForecastRecord)
        before = before or ForecastRecord(RunState.NO_DATA)
        now = workflow.now().timestamp() + arg.clock_offset_s
        try:
            made = await cluster_calls.make_forecast(MakeForecastInput(before.packed, before.sizes, arg.clock_offset_s))
            if made.start or made.end:
                await cluster_calls.carry_out_forecast(CarryOutInput(made.start, made.end, made.namespace))
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error)
            self._show(before, f"{info.type}: {info.message}")
            return replace(
                before, state=RunState.FAILED, message=f"{info.type}: {info.message}", made_at=int(now), acting=0
            )
        if made.places:
            made = replace(made, record=await self._placed(made))
        sizes = await asyncio.gather(*(self._size(dataset, made, int(now)) for dataset in made.unsized))
        record = replace(made.record, sizes=[*made.record.sizes, *sizes])
        self._show(record, record.message)
        return record

    async def _placed(self, made: MadeForecast) -> ForecastRecord:
        """Have nodes asked for. What goes wrong there is told, and the plans stand all the same."""
        try:
            message = await cluster_calls.place_placeholders(PlacePlaceholdersInput(made.ahead, made.renew_s))
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error)
            return replace(made.record, message=f"no placeholder Pods, {info.type}: {info.message}")
        return replace(made.record, message=message)

    async def _size(self, dataset: str, made: MadeForecast, now: int) -> Sized:
        """Ask the origin, with the rights of the prefetches' namespace."""
        arg = ResolveInput(PodRef(made.namespace, "", ""), dataset)
        try:
            resolved = await cluster_calls.resolve_dataset(arg, within=_RESOLVE_WITHIN)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error)
            return Sized(dataset, now, error=f"{info.type}: {info.message}")
        return Sized(dataset, now, sum(snapshot.bytes for snapshot in resolved.snapshots))

    def _show(self, record: ForecastRecord, message: str) -> None:
        workflow.set_current_details(
            f"**{record.state}** {record.acting} of {record.datasets} datasets act {message}".strip()
        )
