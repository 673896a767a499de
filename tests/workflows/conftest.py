"""The session's Temporal server, by its address, and the end of simulated workflows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workflows import simulation
from tools.stack.temporal import Temporal


@pytest.fixture(scope="session")
def temporal_address(temporal_server: Temporal) -> str:
    return temporal_server.address


@pytest.fixture(autouse=True)
def _evict_simulated_workflows() -> Iterator[None]:
    yield
    simulation.evict_all()
