"""Names the folder in which a test run leaves its logs; each of its processes has a folder inside."""

from __future__ import annotations

from pathlib import Path

import pytest

LOGS = Path(__file__).parents[1] / "build" / "test-logs"


def of_process(config: pytest.Config) -> Path:
    """Return the folder of this process: `gw0`, `gw1`, or `alone`."""
    return LOGS / getattr(config, "workerinput", {}).get("workerid", "alone")
