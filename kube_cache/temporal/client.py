"""One way to reach Temporal: the environment's client configuration (`TEMPORAL_*`), waited for with backoff."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig

from kube_cache import names
from kube_cache.backoff import Backoff

# How long a workflow task of a dead operator stays lost. Shorter ones time out in a burst of hundreds, and a task that
# times out is done twice. Local activities run inside a task; the SDK renews it while they do.
TASK_TIMEOUT = timedelta(seconds=10)
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0

_log = structlog.get_logger("kube_cache.temporal.client")


async def connect_once() -> Client:
    """Raises RuntimeError where nobody answers."""
    return await Client.connect(**_config())


def _config() -> ClientConnectConfig:
    config = ClientConfig.load_client_connect_config()
    config.setdefault("namespace", names.TEMPORAL_NAMESPACE)
    return config


async def connect() -> Client:
    """Waits for as long as the server is away: neither part can do anything without it, and a crash loop helps nobody."""
    backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
    while True:
        try:
            return await connect_once()
        except RuntimeError as error:
            wait_s = backoff.next_s()
            _log.warning(
                "Temporal does not answer; trying again",
                address=_config().get("target_host"),
                error=str(error),
                wait_s=round(wait_s, 1),
            )
            await asyncio.sleep(wait_s)
