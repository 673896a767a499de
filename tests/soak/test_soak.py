"""Through kills and pauses of everything no Pod is released cold, none is stuck, and nothing is left: three minutes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.soak.soak import Soak, stack
from tools.stack import Stack

MINUTES = float(os.environ.get("SOAK_MINUTES") or 3)
SEED = int(os.environ.get("SOAK_SEED") or 20261127)
_LOGS = Path(__file__).parents[2] / "build" / "test-logs" / "soak"
pytestmark = [pytest.mark.stack, pytest.mark.timeout(600 + 60 * MINUTES)]


@pytest.fixture(scope="module")
def disturbed() -> Iterator[Stack]:
    with stack() as running:
        yield running
        shutil.rmtree(_LOGS, ignore_errors=True)
        shutil.copytree(running.logs, _LOGS)


def test_no_pod_is_released_cold_or_stuck_and_nothing_is_left_through_random_kills(disturbed: Stack) -> None:
    report = Soak(disturbed, SEED, MINUTES).run()
    report.print(Console(width=140, highlight=False))
    assert not report.problems, f"SOAK_SEED={SEED}"
    # A soak in which nothing happened would prove nothing.
    assert report.observed["judged"] >= 5
    kills = {what for what in report.disturbances if what.startswith(("kill ", "pause "))}
    assert len(kills) >= 6, f"{sorted(kills)}"
