"""The expressions that are shipped say what they promise: nobody is zero where an operator led, and a gap is a gap."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from kube_cache.forecast.settings import DEMAND, SPEED
from tools.servers import build

pytestmark = pytest.mark.needs_server("promtool")

IN_USE = 'kube_cache_demand_copies{dataset="s3://m/a", pod="operator-1"}'
ALSO = 'kube_cache_demand_copies{dataset="s3://m/a", pod="operator-2"}'
OTHER = 'kube_cache_demand_copies{dataset="s3://m/b", pod="operator-1"}'
LEADS = 'kube_cache_operator_leading{pod="operator-1"}'
SPOKEN = "kube_cache_download_speed_bytes_per_second"
DAYS_9 = 9 * 24 * 60


def gives(folder: Path, expression: str, series: Mapping[str, str], minute: int, values: Mapping[str, float]) -> None:
    """Have promtool check what an expression gives. series: a sample a minute. values: by the series' labels."""
    case = {
        "expr": expression,
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in values.items()],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": given} for name, given in series.items()],
        "promql_expr_test": [case],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    command: Sequence[str | Path] = [build.ensure(["promtool"])["promtool"], "test", "rules", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


A = '{dataset="s3://m/a"}'
B = '{dataset="s3://m/b"}'


@pytest.mark.parametrize(
    ("series", "minute", "values"),
    [
        pytest.param({IN_USE: "3x20", OTHER: "1x20", LEADS: "1x20"}, 10, {A: 3, B: 1}, id="in use"),
        pytest.param({IN_USE: "0x8 2 0x20", LEADS: "1x30"}, 12, {A: 2}, id="for a minute within the slot"),
        pytest.param({IN_USE: "3x20", ALSO: "_x9 3x20", LEADS: "1x30"}, 15, {A: 3}, id="two leaders for a moment"),
        pytest.param({IN_USE: "3x20", LEADS: "1x90"}, 80, {A: 0}, id="an operator that knows it no more"),
        pytest.param({IN_USE: "3x20", LEADS: "1x20"}, 80, {}, id="no operator: a gap"),
        pytest.param({IN_USE: "3x20", LEADS: "1x20 0x90"}, 80, {}, id="nobody leads: a gap"),
        pytest.param({IN_USE: "3x20", LEADS: f"1x{DAYS_9}"}, DAYS_9, {}, id="not used for eight days"),
    ],
)
def test_demand(tmp_path: Path, series: Mapping[str, str], minute: int, values: Mapping[str, float]) -> None:
    gives(tmp_path, DEMAND, series, minute, values)


def test_speed_is_the_mean_of_all_downloads_of_the_week(tmp_path: Path) -> None:
    series = {
        f'{SPOKEN}_sum{{node="a"}}': "0+100x20",
        f'{SPOKEN}_sum{{node="b"}}': "0+300x20",
        f'{SPOKEN}_count{{node="a"}}': "0+1x20",
        f'{SPOKEN}_count{{node="b"}}': "0+1x20",
    }
    gives(tmp_path, SPEED, series, 20, {"{}": 200})


def test_without_a_download_there_is_no_speed(tmp_path: Path) -> None:
    gives(tmp_path, SPEED, {}, 20, {})
