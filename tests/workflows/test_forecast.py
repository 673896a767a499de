"""A run of `Forecast` carries out what its report asks for, remembers through the schedule, and fails by saying so."""

from __future__ import annotations

import uuid
from unittest.mock import patch

from kube_cache import names
from kube_cache.contracts.forecast import (
    AheadWanted,
    ForecastRecord,
    ForecastReport,
    MadeForecast,
    PlacePlaceholdersInput,
    RunState,
)
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.temporal import forecast_schedule, forecasts
from tests.workflows.fakes import refused
from tests.workflows.workbench import until, workbench

SPEC = PrefetchSpec("ml", "forecast-a", ["s3://models/a"], copies=2, idle=True)


async def test_plans_are_carried_out_and_sizes_are_learned(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.made = MadeForecast(
            ForecastRecord("ok", acting=1, packed="new"), [SPEC], ["forecast-b"], "ml", ["s3://models/a", "s3://b/c"]
        )
        bench.world.error[names.RESOLVE_DATASET] = [refused("AccessDenied", "no right")]
        record = await (await bench.forecast(ForecastRecord("ok", packed="old"))).result()
        assert bench.world.args(names.MAKE_FORECAST)[0].packed == "old"
        (carried,) = bench.world.args(names.CARRY_OUT_FORECAST)
        assert (carried.start, carried.end, carried.namespace) == ([SPEC], ["forecast-b"], "ml")
        assert {arg.pod.namespace for arg in bench.world.args(names.RESOLVE_DATASET)} == {"ml"}, "with its rights"
        assert (record.state, record.packed) == (RunState.OK, "new")
        assert sorted((size.bytes, size.error) for size in record.sizes) == [(0, "AccessDenied: no right"), (3000, "")]


async def test_what_was_learned_goes_into_the_next_run(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.made = MadeForecast(ForecastRecord("ok", packed="new"), unsized=["s3://models/a"], namespace="ml")
        record = await (await bench.forecast()).result()
        await (await bench.forecast(record)).result()
        assert bench.world.args(names.MAKE_FORECAST)[1].sizes == record.sizes
        assert bench.world.args(names.CARRY_OUT_FORECAST) == [], "nothing to do"


async def test_a_run_that_fails_keeps_the_report_and_says_why(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.error[names.MAKE_FORECAST] = [refused("ForecastFailed", "out of memory")]
        record = await (await bench.forecast(ForecastRecord("ok", packed="old"))).result()
        assert (record.state, record.message) == (RunState.FAILED, "ForecastFailed: out of memory")
        assert record.packed == "old"
        assert bench.world.args(names.CARRY_OUT_FORECAST) == []


async def test_nodes_are_asked_for_where_the_owner_wants_placeholders(temporal_address: str) -> None:
    ahead = [AheadWanted("s3://models/a", 3, 2400)]
    async with workbench(temporal_address) as bench:
        bench.world.made = MadeForecast(ForecastRecord("ok", packed="new"), places=True, ahead=ahead, renew_s=600)
        await (await bench.forecast()).result()
        assert bench.world.args(names.PLACE_PLACEHOLDERS) == [PlacePlaceholdersInput(ahead, 600)]
        bench.world.made = MadeForecast(ForecastRecord("ok", packed="new"), places=True)
        await (await bench.forecast()).result()
        assert bench.world.args(names.PLACE_PLACEHOLDERS)[1].wanted == [], "those of the last plan are taken away"
        bench.world.made = MadeForecast(ForecastRecord("ok", packed="new"))
        await (await bench.forecast()).result()
        assert len(bench.world.args(names.PLACE_PLACEHOLDERS)) == 2, "off"


async def test_placeholders_that_are_refused_are_told_and_the_plan_stands(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.made = MadeForecast(ForecastRecord("ok", packed="new"), places=True)
        bench.world.error[names.PLACE_PLACEHOLDERS] = [refused("SeatForbidden", "the quota is used up")]
        record = await (await bench.forecast(ForecastRecord("ok", packed="old"))).result()
        assert (record.state, record.packed) == (RunState.OK, "new")
        assert record.message == "no placeholder Pods, SeatForbidden: the quota is used up"


async def test_the_schedule_hands_the_last_report_to_the_next_run_and_is_read_from_outside(
    temporal_address: str,
) -> None:
    tag = uuid.uuid4().hex[:8]
    with (
        patch.object(names, "FORECAST_SCHEDULE", f"forecast-{tag}"),
        patch.object(names, "FORECAST_ID", f"forecast-{tag}"),
    ):
        async with workbench(temporal_address) as bench:
            packed = forecasts.pack(ForecastReport(RunState.OK, ok_at=7))
            bench.world.made = MadeForecast(ForecastRecord(RunState.OK, made_at=7, packed=packed))
            await forecast_schedule.ensure(bench.client, step_s=3600)
            handle = bench.client.get_schedule_handle(names.FORECAST_SCHEDULE)
            try:
                for number in (1, 2):
                    await forecast_schedule.trigger(bench.client)

                    async def ended(count: int = number) -> bool:
                        return (await handle.describe()).info.num_actions >= count and not (
                            await handle.describe()
                        ).info.running_actions

                    await until(ended)
                    if number == 1:  # an operator that starts keeps the memory
                        await forecast_schedule.ensure(bench.client, step_s=1800)
                first, second = bench.world.args(names.MAKE_FORECAST)
                assert (first.packed, second.packed) == ("", packed)

                async def is_read() -> bool:  # the list of workflows lags
                    report = await forecasts.latest(bench.client)
                    return report is not None and report.ok_at == 7

                await until(is_read)
            finally:
                await forecast_schedule.remove(bench.client)
            await forecast_schedule.remove(bench.client)  # there is none any more
