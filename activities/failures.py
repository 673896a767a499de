"""Our errors as Temporal's: one decorator on every activity. The workflows' twin is `workflows.failures`.

`retryable` is decided where the error is defined (kube_cache.errors), and is only translated here. An error that is not
ours is a bug or the network: it passes as it is, so Temporal retries it and keeps its class name as type.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from kube_cache.errors import Cancelled, KubeCacheError, NoRoomYet, PrefetchYielded

P = ParamSpec("P")
R = TypeVar("R")
_log = structlog.get_logger("kube_cache.activities")


def as_application_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Raise an ApplicationError for a KubeCacheError (type = class name, details kept), and log the error once."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return await function(*args, **kwargs)
            except KubeCacheError as error:
                raise _application_error(error) from error

        return cast("Callable[P, R]", run_async)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KubeCacheError as error:
            raise _application_error(error) from error

    return run


def _application_error(error: KubeCacheError) -> Exception:
    if isinstance(error, Cancelled):
        return CancelledError(error.message)
    info = activity.info()
    # A Pod that waits for disk space asks every few seconds, and its condition says why. A prefetch that yields does so
    # each few seconds by design.
    log = _log.debug if isinstance(error, NoRoomYet | PrefetchYielded) else _log.warning
    log(
        "activity failed",
        attempt=info.attempt,
        error=type(error).__name__,
        message=error.message,
        retryable=error.retryable,
        **error.details,
    )
    return ApplicationError(
        error.message,
        error.details,
        type=type(error).__name__,
        non_retryable=not error.retryable,
        next_retry_delay=timedelta(seconds=error.retry_after_s) if error.retry_after_s else None,
    )
