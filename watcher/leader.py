"""Leadership of one operator: it alone delivers what the watches see. What the others do: docs/design/leader.md.

Leading saves load and nothing depends on it: two leaders tell each fact twice, which is harmless. So an operator that
cannot reach the API server goes on leading until it sees another's name in the Lease.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from kube_cache.errors import KubeCacheError
from kube_cache.kube.lease import Lease
from kube_cache.telemetry import metrics

_log = structlog.get_logger("kube_cache.leader")


class Leader:
    """Holds the Lease, or waits for it. Belongs to one event loop."""

    def __init__(self, lease: Lease, *, renew_s: float, on_change: Callable[[bool], None]) -> None:
        """on_change: called on the event loop with True when this operator begins to lead, with False when it ends."""
        self._lease = lease
        self._renew_s = renew_s
        self._on_change = on_change
        # A thread of its own: in a burst the others are busy for longer than the Lease lasts.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lease")
        self.leading = False

    async def run(self) -> None:
        """Take and renew the Lease, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._set(await loop.run_in_executor(self._executor, self._lease.try_hold))
            except KubeCacheError as error:
                _log.warning("cannot renew the lease; trying again", leading=self.leading, error=error.message)
            await asyncio.sleep(self._renew_s * random.uniform(0.8, 1.2))

    async def resign(self) -> None:
        """Give the Lease back, so that another operator leads at once; to be called after `run` was cancelled."""
        if not self.leading:
            return
        self._set(False)
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._lease.release)
        except KubeCacheError as error:
            _log.warning("cannot give the lease back; another takes it when it expires", error=error.message)

    def _set(self, leading: bool) -> None:
        if leading == self.leading:
            return
        self.leading = leading
        metrics.LEADING.set(leading)
        if not leading:
            metrics.clear_as_follower()
        _log.info("operator leads" if leading else "operator leads no more")
        self._on_change(leading)
