"""The two places that are asked, Kubernetes and Temporal. Either may be away: then its error is kept instead."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from temporalio.client import Client
from temporalio.service import RPCError

from kube_cache.errors import KubeCacheError
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.temporal.client import connect_once

_CONNECT_S = 5.0
_CAUSE = re.compile(r'message: "([^"]+)"')

T = TypeVar("T")


@dataclass
class Sources:
    kube: KubeClient | None = None
    kubernetes_error: str = ""
    """Why `kube` is None, or what went wrong when it was asked last; empty while all is well."""
    temporal: Client | None = None
    temporal_error: str = ""

    @classmethod
    async def open(cls, *, kubernetes: bool = True) -> Sources:
        """Connect by the environment: KUBECONFIG, TEMPORAL_ADDRESS. Never raises: see the errors.

        kubernetes: False for a question that only Temporal answers.
        """
        sources = cls()
        if kubernetes:
            try:
                sources.kube = await asyncio.to_thread(KubeClient.from_environment)
            except KubeCacheError as error:
                sources.kubernetes_error = error.message
        try:
            sources.temporal = await asyncio.wait_for(connect_once(), _CONNECT_S)
        except TimeoutError:
            sources.temporal_error = f"no answer within {_CONNECT_S:.0f} s; look at TEMPORAL_ADDRESS"
        except RuntimeError as error:
            sources.temporal_error = f"no connection ({_cause(error)}); look at TEMPORAL_ADDRESS"
        except KubeCacheError as error:
            sources.temporal_error = error.message
        return sources

    async def ask_kubernetes(self, question: Callable[[KubeClient], T]) -> T | None:
        """Ask on a thread; None if the API server is away or refuses, and the error says why. A 404 is raised."""
        if self.kube is None:
            return None
        try:
            return await asyncio.to_thread(question, self.kube)
        except ApiError as error:
            if error.status == 404:
                raise
            self.kubernetes_error = error.message
            return None

    async def ask_temporal(self, question: Callable[[Client], Awaitable[T]]) -> T | None:
        """Ask; None if Temporal is away or refuses, and the error says why."""
        if self.temporal is None:
            return None
        try:
            return await question(self.temporal)
        except RPCError as error:
            self.temporal_error = error.message
            return None


def _cause(error: RuntimeError) -> str:
    """Take the system's own words out of the nested values that the SDK prints; all of it where there are none."""
    found = _CAUSE.search(str(error))
    return found[1] if found else str(error)
