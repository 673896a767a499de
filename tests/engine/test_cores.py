"""The governor counts the cores that the container may use, not those of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kube_cache.engine.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, ALL),
        ({"cpu.max": f"{(ALL + 5) * 100000} 100000\n"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "200000\n"}, 0.75),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        ({}, ALL),
        ({"cpu.max": "what\n"}, ALL),
    ],
    ids=["quota", "no limit", "more than there are", "cgroups v1", "v1 without limit", "no cgroups", "nonsense"],
)
def test_a_quota_of_the_container_counts(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores
