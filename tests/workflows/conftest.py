"""A real Temporal server for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.servers import build
from tools.stack import temporal
from tools.stack.processes import Processes


@pytest.fixture(scope="session")
def temporal_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("temporal")
    processes = Processes(state)
    try:
        yield temporal.start(processes, build.ensure(["temporal"])["temporal"], state).address
    finally:
        processes.close()
