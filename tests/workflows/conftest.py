"""The session's Temporal server, by its address."""

from __future__ import annotations

import pytest

from tools.stack.temporal import Temporal


@pytest.fixture(scope="session")
def temporal_address(temporal_server: Temporal) -> str:
    return temporal_server.address
