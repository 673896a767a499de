"""What came at 9 o'clock for three weeks is there before it comes again, and makes room when it is not needed.

A real Prometheus has the weeks, written by its own backfill. The morning is yesterday's: the forecast's clock is moved
by the schedule, while nodes, Pods and downloads live now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.forecast import DatasetForecast, DatasetState, ForecastReport, RunState
from kube_cache.contracts.prefetch import PrefetchPhase
from kube_cache.temporal import forecast_schedule, forecasts, prefetches
from tests.e2e.disk import DiskNode
from tests.e2e.promises import MIB, mounted, released, workflow_status
from tests.e2e.shell import Shell
from tools.stack import Stack, api
from tools.stack.backfilled import SERVERS, backfilled
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

pytestmark = [pytest.mark.needs_server(name) for name in SERVERS]

DAY, HOUR, STEP = 86_400, 3600, 300
COPIES = 3
YESTERDAY = int(time.time()) // DAY * DAY - DAY
"""Its begin, in seconds since the epoch, UTC."""
SIZE = 20 * MIB


def rush(uri: str) -> Iterator[str]:
    """Demand by our own metrics: three copies from 9 to 17 o'clock for three weeks and a day, as an operator tells it.

    At night the operator was started anew and knows no dataset; on one day there was no operator.
    """
    moments = [
        moment
        for moment in range(YESTERDAY - 21 * DAY, YESTERDAY + DAY, STEP)
        if moment // DAY != YESTERDAY // DAY - 10
    ]
    yield "# TYPE kube_cache_demand_copies gauge"
    for moment in moments:
        if 8 * HOUR <= moment % DAY < 20 * HOUR:
            copies = COPIES if 9 * HOUR <= moment % DAY < 17 * HOUR else 0
            yield f'kube_cache_demand_copies{{dataset="{uri}"}} {copies} {moment}'
    yield "# TYPE kube_cache_operator_leading gauge"
    for moment in moments:
        yield f"kube_cache_operator_leading 1 {moment}"


class Forecasts:
    """The forecast's schedule, with its clock in yesterday."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def at(self, hour: float) -> ForecastReport:
        """Have a run made at that hour of yesterday; its report."""
        begun = time.time()
        wanted = YESTERDAY + hour * HOUR

        async def run() -> None:
            client = await self._client()
            await forecast_schedule.ensure(client, step_s=HOUR, clock_offset_s=wanted - begun)
            await forecast_schedule.trigger(client)

        asyncio.run(run())
        found: list[ForecastReport] = []

        def is_there() -> bool:
            report = self._ask(forecasts.latest)
            is_of_then = report is not None and int(wanted) <= report.made_at < wanted + STEP
            found[:] = [report] if is_of_then and report is not None else []
            return bool(found)

        true(is_there, f"a forecast was made of {hour} o'clock", 180)
        return found[0]

    def dataset(self, hour: float) -> DatasetForecast:
        report = self.at(hour)
        assert report.state == RunState.OK, report.message
        (dataset,) = report.datasets
        return dataset

    def prefetch(self, name: str) -> Any:
        return self._ask(lambda client: prefetches.status_of(client, "default", name))

    def _ask(self, question: Callable[[Client], Any]) -> Any:
        async def ask() -> Any:
            return await question(await self._client())

        return asyncio.run(ask())

    async def _client(self) -> Client:
        return await Client.connect(self._stack.temporal_address, namespace=self._stack.temporal_namespace)


@pytest.fixture
def forecast(stack: Stack) -> Iterator[Forecasts]:
    made = Forecasts(stack)
    yield made

    async def remove() -> None:
        client = await made._client()
        await forecast_schedule.remove(client)
        async for each in prefetches.running_prefetches(client):
            if each.name.startswith("forecast-"):
                await prefetches.end_prefetch(client, each.namespace, each.name)

    asyncio.run(remove())


def is_there(stack: Stack, node: str, uri: str) -> bool:
    try:
        mounted(stack, node, uri)
    except FileNotFoundError:
        return False
    return True


def label(stack: Stack, node: str, pool: str | None) -> None:
    stack.api.request(
        "PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": {"pool": pool}}}, content_type=api.MERGE
    )


def elsewhere(node: str) -> dict[str, Any]:
    """A Pod's spec: in the pool, on another node than this one."""
    expressions = [
        {"key": "pool", "operator": "In", "values": ["rush"]},
        {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]},
    ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def test_the_rush_of_nine_oclock_finds_its_data_and_what_nobody_used_makes_room(
    stack: Stack, disk: DiskNode, pods: Pods, bucket: Bucket, forecast: Forecasts
) -> None:
    content, uri = bucket.fill("rush", [SIZE]), bucket.uri("rush")
    older, old = bucket.fill("old", [8 * MIB]), bucket.uri("old")
    newer, new = bucket.fill("new", [SIZE]), bucket.uri("new")
    first, second, outside = stack.nodes[:3]
    planned = [first, second, disk.name]

    # A Pod has used other data on the small disk, before all of this.
    pods.create_gated("before", old, spec=disk.spec)
    released(stack, pods, "before", old, older)
    pods.delete("before")
    pods.wait_gone("before")

    for node in planned:
        label(stack, node, "rush")
    with backfilled(stack, rush(uri)) as url:
        stack.operator.restart(
            kill=False,
            env={
                "KUBE_CACHE_FORECAST__ENABLED": "true",
                "KUBE_CACHE_FORECAST__PROMETHEUS_URL": url,
                "KUBE_CACHE_FORECAST__PROMETHEUS_TIMEOUT_S": "90",
                "KUBE_CACHE_FORECAST__NODE_SELECTOR": "pool=rush",
                "KUBE_CACHE_FORECAST__LEAD_S": "1800",
            },
        )
        assert forecast.dataset(7.0).backtest.acts, "the gate has looked"
        at_eight = forecast.dataset(8.0)
        assert (at_eight.state, at_eight.bytes_each) == (DatasetState.ACTING, SIZE), at_eight.reason
        assert at_eight.prefetch == "", "nobody comes within the lead"

        # A lead and a slot before nine o'clock: the copies are brought, and no Pod has asked for them.
        before_nine = forecast.dataset(8 + 25 / 60)
        assert before_nine.plan is not None
        assert before_nine.plan.copies == COPIES
        assert before_nine.in_use == 0
        told = Shell(stack).json("forecast", uri)["datasets"]
        assert [(each["acts"], each["plan"]["copies"]) for each in told] == [(True, COPIES)]
        for node in planned:
            true(lambda node=node: is_there(stack, node, uri), f"{node} holds the data", 180)
        assert not is_there(stack, outside, uri)
        served = stack.s3_proxy.bytes_served(bucket.name, "rush")
        assert served == COPIES * SIZE

        # Nine o'clock: two of three come, and wait for no byte.
        for name in ("one", "two"):
            pods.create_gated(name, uri, gpus=8, spec=elsewhere(disk.name))
        nodes = {released(stack, pods, name, uri, content) for name in ("one", "two")}
        assert nodes == {first, second}
        assert stack.s3_proxy.bytes_served(bucket.name, "rush") == served, "both are hits"

        # The day was measured as usual; for the evening nothing is planned, and the copies are let go.
        score = forecast.dataset(9.5).score()
        assert (score.ours.arrivals, score.ours.hits, score.acted > 0) == (COPIES, COPIES, True)
        assert forecast.dataset(16.4).prefetch == before_nine.prefetch, "renewed while it is wanted"
        evening = forecast.dataset(16.95)
        assert evening.prefetch == "", "no slot to come has a plan"
        identity = names.prefetch_id("default", before_nine.prefetch)
        true(lambda: workflow_status(stack, identity) != "RUNNING", "the prefetch has ended")
        assert forecast.prefetch(before_nine.prefetch).phase == PrefetchPhase.CANCELLED

        # A Pod that needs the room gets it at once: the copy that nobody used goes, and not the older data.
        pods.create_gated("needs-room", new, spec=disk.spec)
        assert released(stack, pods, "needs-room", new, newer) == disk.name
        assert not is_there(stack, disk.name, uri)
        assert is_there(stack, disk.name, old)

    # Prometheus is gone: the state has a name, and what was known is still told.
    down = forecast.at(17.5)
    assert down.state == RunState.PROMETHEUS_DOWN
    assert RunState.PROMETHEUS_DOWN in Shell(stack)("forecast")
    assert [each.dataset for each in down.datasets] == [uri]
    for node in planned[:2]:
        label(stack, node, None)
