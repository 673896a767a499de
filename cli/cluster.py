"""What the commands about a cluster share: sources, the form of a Pod's name, JSON, exit codes, a quiet log."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from kube_cache.contracts.node import ExitCode
from kube_cache.errors import InvalidRequest
from kube_cache.insight.sources import Sources

T = TypeVar("T")


def parse_pod(text: str) -> tuple[str, str]:
    """Split NAMESPACE/POD. Raises InvalidRequest."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise InvalidRequest(f"{text!r} names no Pod: write NAMESPACE/POD")
    return namespace, name


def ask(question: Callable[[Sources], Awaitable[T]], *, kubernetes: bool = True) -> T:
    """Connect to both sources, or to Temporal alone, ask, and return the answer."""
    # Logs go to standard error, because standard output is for the answer.
    logging.getLogger().setLevel(logging.ERROR)
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )

    async def run() -> T:
        return await question(await Sources.open(kubernetes=kubernetes))

    return asyncio.run(run())


def print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


def complain(text: str) -> None:
    print(f"kube-cache: {text}", file=sys.stderr)


def complain_of_sources(sources: Sources) -> int:
    """Name the sources that tell nothing. Return the exit code: 6 when one of them is away, else 0."""
    for name, error in (("the API server", sources.kubernetes_error), ("Temporal", sources.temporal_error)):
        if error:
            complain(f"{name} tells nothing: {error}")
    return ExitCode.UNREACHABLE if sources.kubernetes_error or sources.temporal_error else ExitCode.DONE
