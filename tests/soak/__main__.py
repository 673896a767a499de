"""`make soak`: half an hour (`SOAK_MINUTES`) of random kills, pauses and Pods, and a judgement. Seed: `SOAK_SEED`."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

from rich.console import Console

from tests.soak.soak import Soak, stack

_LOGS = Path(__file__).parents[2] / "build" / "test-logs" / "soak"


def main() -> int:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    minutes = float(os.environ.get("SOAK_MINUTES") or 30)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(f"soak of {minutes:g} minutes; again with SOAK_SEED={seed}")
    with stack() as running:
        soak = Soak(running, seed, minutes)
        soak.report.command = f"SOAK_SEED={seed} SOAK_MINUTES={minutes:g} make soak"
        try:
            report = soak.run()
        finally:
            shutil.rmtree(_LOGS, ignore_errors=True)
            shutil.copytree(running.logs, _LOGS)
            shutil.copy(running.state / "audit.log", _LOGS)
            shutil.copy(running.state / "temporal.db", _LOGS)
    report.print(console)
    console.print(f"written: {report.write()}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
