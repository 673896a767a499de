"""`ping`: the agent lives. Node queue.

A download that nobody takes in time may wait for a busy agent or for a dead one; this tells which.
"""

from __future__ import annotations

from temporalio import activity

from kube_cache import names


@activity.defn(name=names.PING)
async def ping() -> None:
    """Answer. Running twice is harmless."""
