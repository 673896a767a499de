"""Grants a node what it may read from its neighbours: a snapshot that a Pod's own rights have resolved, for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from activities.cluster.join_dataset import Grant, no_grant
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.node import MIN_STREAM_BYTES_PER_S
from kube_cache.errors import InvalidRequest
from kube_cache.peers.reloaded import Reloaded
from kube_cache.peers.tokens import LIFE_S, Mint


def granter(key_file: str, *, comes_later: bool = False) -> Grant:
    """Return what mints tokens with the key of this file; nothing is granted without one. Raises InvalidRequest.

    The file is read again when it changes. comes_later: the operator writes it, and nothing is granted until then.
    """
    if not key_file:
        return no_grant
    path = Path(key_file)

    def load() -> Mint:
        try:
            return Mint(path.read_bytes())
        except InvalidRequest as error:
            raise ValueError(error.message) from error

    if comes_later:
        return _once_it_is_there(path, load)
    try:
        mint = Reloaded([path], load)
    except ValueError as error:
        raise InvalidRequest(f"KUBE_CACHE_OPERATOR__PEER_KEY_FILE: {key_file}: {error}") from error
    except OSError as error:
        raise InvalidRequest(
            f"KUBE_CACHE_OPERATOR__PEER_KEY_FILE: cannot read {key_file}: {error.strerror}; mount the Secret that has"
            " it, or leave the variable empty: then nodes read nothing from each other"
        ) from error

    return lambda snapshot, node: _token(mint.get(), snapshot, node)


def _once_it_is_there(path: Path, load: Callable[[], Mint]) -> Grant:
    mint: Reloaded[Mint] | None = None

    def grant(snapshot: Snapshot, node: str) -> str:
        nonlocal mint
        if mint is None:
            try:
                mint = Reloaded([path], load)
            except (OSError, ValueError):  # who keeps the file says why it is not there
                return ""
        return _token(mint.get(), snapshot, node)

    return grant


def _token(mint: Mint, snapshot: Snapshot, node: str) -> str:
    life_s = LIFE_S + snapshot.bytes / MIN_STREAM_BYTES_PER_S  # as long as the download may take
    return mint.token(snapshot.digest, node, time.time(), life_s=life_s)
