"""The agent's readiness follows its disk."""

from __future__ import annotations

import asyncio
import threading

from cli.agent import watch_disk
from kube_cache.errors import DiskFault
from kube_cache.telemetry.probes import Health
from tests.workflows.workbench import until


async def test_an_agent_is_ready_while_its_disk_answers() -> None:
    health, released = Health(), threading.Event()
    fails = hangs = False

    def probe() -> None:
        if fails:
            raise DiskFault("EIO")
        if hangs:
            released.wait()

    watching = asyncio.create_task(watch_disk(probe, health, every_s=0.01, patience_s=0.2))
    await until(lambda: health.ready)
    fails = True
    await until(lambda: not health.ready)
    fails = False
    await until(lambda: health.ready)
    hangs = True
    await until(lambda: not health.ready)
    hangs = False
    released.set()
    await until(lambda: health.ready)
    watching.cancel()
