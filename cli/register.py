"""`kube-cache register`: make a Temporal namespace ready for the operators of this build."""

from __future__ import annotations

import asyncio

from temporalio.service import RPCError

from cli import cluster
from kube_cache.contracts.node import ExitCode
from kube_cache.errors import InvalidRequest
from kube_cache.temporal.client import connect_once
from kube_cache.temporal.registration import register


def run() -> int:
    """Return the exit code: 6 when Temporal does not answer."""
    try:
        added = asyncio.run(_register())
    except InvalidRequest as error:
        cluster.complain(error.message)
        return ExitCode.USAGE
    except (RPCError, RuntimeError) as error:  # RuntimeError: no connection
        cluster.complain(f"Temporal did not take the search attributes: {error}")
        return ExitCode.UNREACHABLE
    print(f"registered {', '.join(added)}" if added else "every search attribute is registered")
    return ExitCode.DONE


async def _register() -> list[str]:
    return await register(await connect_once())
