"""Exit codes of the commands that fetch: which error ends with which. They are stable: scripts rely on them."""

from __future__ import annotations

from typing import Final

from kube_cache import errors
from kube_cache.contracts.node import ExitCode
from kube_cache.errors import KubeCacheError

_CODES: Final[dict[type[KubeCacheError], ExitCode]] = {
    errors.InvalidRequest: ExitCode.USAGE,
    errors.AccessDenied: ExitCode.REFUSED,
    errors.BucketNotAllowed: ExitCode.REFUSED,
    errors.DatasetNotAllowed: ExitCode.REFUSED,
    errors.OriginUnsuitable: ExitCode.REFUSED,
    errors.NodeUnsuitable: ExitCode.REFUSED,
    errors.StoreConflict: ExitCode.REFUSED,
    errors.ChecksumMismatch: ExitCode.DAMAGED,
    errors.DatasetNotFound: ExitCode.ABSENT,
    errors.SourceUnavailable: ExitCode.UNREACHABLE,
    errors.SourceChanged: ExitCode.UNREACHABLE,
    errors.InsufficientDisk: ExitCode.NO_ROOM,
    errors.DiskFault: ExitCode.FAILED,
}


def code_of_type(name: str) -> ExitCode:
    """Return the code of the error's class by its name, as it comes back from a workflow."""
    return next((code for kind, code in _CODES.items() if kind.__name__ == name), ExitCode.FAILED)


def code_of(error: KubeCacheError) -> ExitCode:
    """Return the code of the error's class, else of the nearest class above it."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), ExitCode.FAILED)
