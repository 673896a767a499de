"""One way to reach Temporal: the environment's client configuration (`TEMPORAL_*`), waited for with backoff."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig

from kube_cache import names

# How long a workflow task of a dead operator stays lost. Shorter ones time out in a burst of hundreds, and a task that
# times out is done twice. Local activities run inside a task; the SDK renews it while they do.
TASK_TIMEOUT = timedelta(seconds=10)

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
    delay = 0.2
    while True:
        try:
            return await connect_once()
        except RuntimeError as error:
            _log.warning(
                "Temporal does not answer; trying again",
                address=_config().get("target_host"),
                error=str(error),
                wait_s=round(delay, 1),
            )
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(delay * 2, 10)
