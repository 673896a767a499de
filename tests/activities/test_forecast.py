"""The forecast's activities: a round in a process of its own, whatever Prometheus answers, and what is carried out."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.cluster.forecast import make_forecast
from activities.cluster.forecast.make_forecast import ForecastActivities
from kube_cache.contracts.common import Policy
from kube_cache.contracts.forecast import (
    CarryOutInput,
    DatasetForecast,
    DatasetState,
    ForecastReport,
    MadeForecast,
    MakeForecastInput,
    RunState,
    Sized,
)
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.temporal.forecasts import pack, report_of
from tests.prometheus.served import Fields, Served, matrix, serving
from tests.workflows.workbench import until

HOUR, DAY = 3600, 86400
URI = "s3://models/gpt"
# Ours, so that the rush is where the test wants it: the middle of the hour before 9 o'clock, UTC.
OFFSET = 8 * HOUR + 1800 - time.time() % DAY


@pytest.fixture
def prometheus() -> Iterator[Served]:
    with serving() as served:
        yield served


def rush(fields: Fields) -> tuple[int, dict[str, str], bytes]:
    """Answer as a Prometheus that measured eight copies from 9 to 17 o'clock, each day."""
    if "speed" in fields["query"]:
        return 200, {}, json.dumps(matrix(({}, [(float(fields["start"]), "2e9")]))).encode()
    moments = range(int(fields["start"]), int(fields["end"]) + 1, int(fields["step"]))
    values = [(float(moment), "8" if 9 <= moment % DAY // HOUR < 17 else "0") for moment in moments]
    return 200, {}, json.dumps(matrix(({"dataset": URI}, values))).encode()


async def made(prometheus: Served, before: str = "", **settings: Any) -> MadeForecast:
    given = {"step_s": 1800, "prometheus_url": prometheus.url, "prometheus_timeout_s": 90, **settings}
    activities = ForecastActivities(
        SimpleNamespace(),  # type: ignore[arg-type]
        ForecastSettings(**given),
        Policy(),
    )
    sizes = [Sized(URI, int(time.time() + OFFSET), 10**9)]
    return await ActivityEnvironment().run(activities.make_forecast, MakeForecastInput(before, sizes, OFFSET))


async def test_a_rush_is_planned_for_before_it_comes(prometheus: Served) -> None:
    prometheus.answer = rush
    found = await made(prometheus)
    assert (found.record.state, found.record.acting) == (RunState.OK, 1), found.record.message
    (dataset,) = report_of(found.record).datasets
    assert dataset.state == DatasetState.ACTING, dataset.reason
    (spec,) = found.start
    assert spec.datasets == [URI]
    assert spec.copies >= 8
    assert report_of(found.record).speed_bytes_per_s == 2e9
    assert found.unsized == []
    assert (found.places, found.ahead) == (False, []), "off, unless the owner says how many"
    assert all(int(asked["end"]) <= time.time() + OFFSET for asked in prometheus.asked), "the clock is moved"


async def test_nodes_are_asked_for_where_the_owner_wants_placeholders(prometheus: Served) -> None:
    prometheus.answer = rush
    found = await made(prometheus, max_placeholders=4)
    (spec,) = found.start
    (ahead,) = found.ahead
    assert found.places
    assert (ahead.dataset, ahead.copies) == (URI, spec.copies)
    assert ahead.lives_s >= spec.expires_s > found.renew_s > 0
    prometheus.url = "http://127.0.0.1:1"
    assert not (await made(prometheus, max_placeholders=4)).places, "without a plan those that stand live to their end"


def gives(status: int, document: object) -> Callable[[Served], None]:
    return lambda served: served.gives(status, document)


def numbers(*values: str, **labels: str) -> Any:
    now = int(time.time() + OFFSET)
    return matrix((labels or {"dataset": URI}, [(now - 60 * number, value) for number, value in enumerate(values)]))


def down(served: Served) -> None:
    served.url = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("prepare", "state", "words"),
    [
        pytest.param(down, RunState.PROMETHEUS_DOWN, "does not answer", id="down"),
        pytest.param(gives(503, b"busy"), RunState.PROMETHEUS_DOWN, "cannot answer now", id="busy"),
        pytest.param(
            gives(400, {"status": "error", "errorType": "bad_data", "error": "parse error"}),
            RunState.WRONG_EXPRESSION,
            "parse error",
            id="wrong expression",
        ),
        pytest.param(gives(200, b"<html>"), RunState.WRONG_ANSWER, "not one of the API", id="no Prometheus"),
        pytest.param(gives(200, matrix()), RunState.NO_DATA, "check the names", id="empty"),
        pytest.param(gives(200, numbers("NaN", "NaN")), RunState.NO_DATA, "no measurement", id="only NaN"),
        pytest.param(
            gives(200, matrix(warnings=["a store is away"])), RunState.PARTIAL_ANSWER, "a store is away", id="partial"
        ),
        pytest.param(gives(200, numbers("1", pod="a")), RunState.WRONG_ANSWER, "lacks the label", id="no dataset"),
    ],
)
async def test_what_prometheus_does_wrong_is_a_state_that_keeps_the_last_report(
    prometheus: Served, prepare: Callable[[Served], None], state: RunState, words: str
) -> None:
    prepare(prometheus)
    before = ForecastReport(RunState.OK, "", 5, 5, datasets=[DatasetForecast(URI, "acting", prefetch="forecast-a")])
    found = await made(prometheus, pack(before))
    assert found.record.state == state
    assert words in found.record.message
    assert (found.start, found.end, found.unsized) == ([], [], []), "nothing is moved"
    kept = report_of(found.record)
    assert (kept.datasets, kept.ok_at, kept.state) == (before.datasets, 5, state)
    assert [size.dataset for size in found.record.sizes] == [URI], "what was learned is not forgotten"


@pytest.mark.parametrize("value", [pytest.param("+Inf", id="infinite"), pytest.param("-3", id="negative")])
async def test_numbers_that_are_no_copies_are_a_state_of_the_dataset(prometheus: Served, value: str) -> None:
    prometheus.gives(200, numbers(value))
    found = await made(prometheus)
    (dataset,) = report_of(found.record).datasets
    assert dataset.state == (DatasetState.ABSURD if value == "+Inf" else DatasetState.NEGATIVE)
    assert (found.start, found.record.acting) == ([], 0)


async def test_many_points_are_asked_for_in_parts(prometheus: Served) -> None:
    prometheus.answer = rush
    await made(prometheus, step_s=60, weeks=2, speed_expression="speed")
    asked = [fields for fields in prometheus.asked if fields["query"] != "speed"]
    assert len(asked) == 2
    for fields in asked:
        assert (int(fields["end"]) - int(fields["start"])) / 60 < 11_000


async def test_a_report_that_nobody_can_read_is_begun_anew(prometheus: Served) -> None:
    prometheus.answer = rush
    assert (await made(prometheus, "no report")).record.state == RunState.OK


async def test_a_process_that_dies_is_an_error_in_its_words(
    prometheus: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_forecast, "CHILD", ["-c", "raise MemoryError('too many datasets')"])
    with pytest.raises(ApplicationError, match="code 1: MemoryError: too many datasets") as caught:
        await made(prometheus)
    assert not caught.value.non_retryable


async def test_more_demand_than_the_memory_takes_fails_the_run_and_not_the_operator(prometheus: Served) -> None:
    def many(fields: Fields) -> tuple[int, dict[str, str], bytes]:
        moments = range(int(fields["start"]), int(fields["end"]) + 1, int(fields["step"]))
        values = [(float(moment), "8") for moment in moments]
        return 200, {}, json.dumps(matrix(*(({"dataset": f"s3://m/{k}"}, values) for k in range(120)))).encode()

    prometheus.answer = many
    with pytest.raises(ApplicationError, match="MemoryError"):
        await made(prometheus, step_s=300, max_memory_bytes=256 << 20)


async def test_a_child_is_gone_when_its_activity_is_cancelled(
    prometheus: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    told = tmp_path / "pid"
    words = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(make_forecast, "CHILD", ["-c", words])
    running = asyncio.create_task(made(prometheus))
    await until(lambda: told.exists() and told.read_text())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


class Prefetches:
    """A Temporal that notes what it is asked for."""

    def __init__(self, *, gone: bool = False) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self._gone = gone

    async def start_workflow(self, _name: str, arg: Any, *, id: str, **_: Any) -> Any:  # noqa: A002
        self.started.append(id)

    def get_workflow_handle(self, id: str, **_: Any) -> Any:  # noqa: A002
        async def signal(name: str, **_: Any) -> None:
            if self._gone:
                raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")
            self.cancelled.append(f"{name} {id}")

        return SimpleNamespace(signal=signal)


@pytest.mark.parametrize("gone", [pytest.param(False, id="alive"), pytest.param(True, id="ended by itself")])
async def test_prefetches_are_started_and_ended(gone: bool) -> None:
    client = Prefetches(gone=gone)
    activities = ForecastActivities(client, ForecastSettings(), Policy())  # type: ignore[arg-type]
    arg = CarryOutInput([PrefetchSpec("ml", "forecast-a", [URI], copies=3)], ["forecast-b"], "ml")
    await ActivityEnvironment().run(activities.carry_out_forecast, arg)
    assert client.started == ["prefetch/ml/forecast-a"]
    assert client.cancelled == ([] if gone else ["cancel prefetch/ml/forecast-b"])
