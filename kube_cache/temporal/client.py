"""Connection to Temporal by the environment's client configuration (`TEMPORAL_*`), once or until a server answers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from temporalio.client import Client, GrpcCompression
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.errors import InvalidRequest
from kube_cache.telemetry import redaction
from kube_cache.temporal.payloads import CONVERTER

# Time after which a workflow task of a dead operator is given to another one. With a shorter one tasks time out in a
# burst of hundreds, and a task that times out is done twice. The SDK renews a task while its local activities run.
TASK_TIMEOUT = timedelta(seconds=10)
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0

_log = structlog.get_logger("kube_cache.temporal.client")


async def connect_once(runtime: Runtime | None = None) -> Client:
    """Connect, in one attempt. Raises RuntimeError if no server answers, InvalidRequest without an address.

    runtime: of the SDK, if not its default.
    """
    return await Client.connect(
        **_config(),
        data_converter=CONVERTER,
        runtime=runtime,
        # A hit's messages have some kilobytes each, and to compress them was 2 % of Temporal's CPU in a burst.
        grpc_compression=GrpcCompression.NONE,
    )


def _config() -> ClientConnectConfig:
    config = ClientConfig.load_client_connect_config()
    config.setdefault("namespace", names.TEMPORAL_NAMESPACE)
    if not config.get("target_host"):
        raise InvalidRequest(
            "no address of Temporal: set TEMPORAL_ADDRESS to host:port of its frontend, or TEMPORAL_PROFILE to a"
            " profile that has one"
        )
    if isinstance(key := config.get("api_key"), str):
        redaction.hide(key)
    return config


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect, for as long as it takes: without Temporal an operator or agent can do nothing, and a crash loop less.

    Raises InvalidRequest without an address.
    """
    backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
    while True:
        try:
            return await connect_once(runtime)
        except RuntimeError as error:
            wait_s = backoff.next_s()
            _log.warning(
                "Temporal does not answer; trying again",
                address=_config().get("target_host"),
                error=str(error),
                wait_s=round(wait_s, 1),
            )
            await asyncio.sleep(wait_s)
