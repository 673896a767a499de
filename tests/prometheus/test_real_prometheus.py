"""A real Prometheus answers as the client expects: three weeks in parts, its limit, its refusals, NaN and infinity.

The expressions make their demand themselves, so that no sample needs to be written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kube_cache.errors import DemandUnknown, PrometheusRefused
from kube_cache.forecast.condition import State, examine
from kube_cache.prometheus import demand
from kube_cache.prometheus.demand import DemandQuery, read_demand
from kube_cache.prometheus.http import Endpoint
from tools.servers import build
from tools.stack import ports, probe
from tools.stack.processes import Process, Processes

pytestmark = [pytest.mark.stack, pytest.mark.needs_server("prometheus")]

ZONE = ZoneInfo("UTC")
START = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())
WEEKS = DemandQuery(
    'label_replace(vector(time() / 3600 % 24), "dataset", "s3://m/a", "", "")', START, START + 21 * 86_400 - 60, 60
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yaml").write_text("global: {}\n")
    binary = build.ensure(["prometheus"])["prometheus"]
    processes = Processes(folder / "logs")

    def launch(chosen: list[int]) -> Process:
        address = f"{ports.LOOPBACK}:{chosen[0]}"
        command: list[str | Path] = [
            binary,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        process = processes.spawn("prometheus", command, dict(os.environ))
        process.wait_until(lambda: probe.answers(f"http://{address}/-/ready"), "/-/ready", 90)
        urls.append(f"http://{address}")
        return process

    urls: list[str] = []
    try:
        ports.binding(1, launch)
        yield Endpoint(urls[-1], timeout_s=90)
    finally:
        processes.close()


def test_three_weeks_of_minutes_are_read_whole(endpoint: Endpoint) -> None:
    series = read_demand(endpoint, WEEKS, ZONE)["s3://m/a"]
    assert series.start == START
    assert list(series.values) == pytest.approx([slot / 60 % 24 for slot in range(21 * 1440)])


def test_the_limit_of_points_is_where_we_think(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MAX_POINTS", 11_002)
    with pytest.raises(PrometheusRefused, match="11,000 points"):
        read_demand(endpoint, WEEKS, ZONE)
    monkeypatch.setattr(demand, "MAX_POINTS", 11_001)
    assert len(read_demand(endpoint, WEEKS, ZONE)["s3://m/a"]) == 21 * 1440


def test_a_wrong_expression_is_told_in_its_words(endpoint: Endpoint) -> None:
    with pytest.raises(PrometheusRefused, match=r"bad_data: .*parse error"):
        read_demand(endpoint, replace(WEEKS, expression="sum by (dataset"), ZONE)


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("sum by (dataset) (no_such_metric)", id="no series"),
        pytest.param('label_replace(vector(0) / 0, "dataset", "a", "", "")', id="only NaN"),
    ],
)
def test_an_expression_that_finds_nothing_is_named(endpoint: Endpoint, expression: str) -> None:
    with pytest.raises(DemandUnknown):
        read_demand(endpoint, replace(WEEKS, expression=expression), ZONE)


def test_infinity_is_a_named_state(endpoint: Endpoint) -> None:
    query = replace(WEEKS, expression='label_replace(vector(1) / 0, "dataset", "a", "", "")')
    series = read_demand(endpoint, query, ZONE)["a"]
    assert set(series.values) == {math.inf}
    assert examine(series, query.end)[0] is State.ABSURD


def test_a_number_without_labels_is_one_series(endpoint: Endpoint) -> None:
    query = replace(WEEKS, expression="hour(vector(time()))", by="", step_s=3600)
    assert list(read_demand(endpoint, query, ZONE)[""].values) == [float(hour % 24) for hour in range(21 * 24)]
