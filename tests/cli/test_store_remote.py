"""Ctrl-C while Temporal answers that a command has started, which a real server does not produce on demand."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from cli import store_remote
from kube_cache.contracts.node import StoreRequest


def test_a_command_that_was_interrupted_while_it_started_is_cancelled() -> None:
    async def scenario() -> None:
        answered = asyncio.Event()
        handle = SimpleNamespace(cancel=AsyncMock())

        async def start_workflow(*_: object, **__: object) -> object:
            await answered.wait()
            return handle

        carrying = asyncio.ensure_future(
            store_remote._run_workflow(SimpleNamespace(start_workflow=start_workflow), StoreRequest("gpu-1", "scrub"))
        )
        await asyncio.sleep(0)
        carrying.cancel()
        await asyncio.sleep(0)
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        handle.cancel.assert_awaited_once()

    asyncio.run(scenario())
