"""Keeps the files of the nodes' authority as the cluster has it, for an operator that mounts none.

A thread looks once a minute. An operator does not wait for it: until there is an authority nobody is granted or issued
anything, and every node fetches from the origin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from kube_cache.backoff import Backoff
from kube_cache.errors import KubeCacheError
from kube_cache.kube.authority_secret import AuthoritySecret, Pair
from kube_cache.peers.reloaded import put

_log = structlog.get_logger("kube_cache.peers")
LOOK_S: Final = 60.0
"""Between two looks whether somebody has replaced the authority: two requests for each operator."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
_CLOSE_S: Final = 1.0


class AuthorityKeeper:
    """Looks from its construction until `close`."""

    def __init__(
        self,
        secret: AuthoritySecret,
        key: Path,
        certificate: Path,
        on_files: Callable[[], None],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """key, certificate: files to write. on_files: called in the thread when both are there; again if it raises."""
        self._secret = secret
        self._key, self._certificate = key, certificate
        self._on_files = on_files
        self._look_s = look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="authority", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End. A request that takes longer ends with the process."""
        self._stop.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        backoff = Backoff(_MIN_PAUSE_S, _MAX_PAUSE_S)
        written: Pair | None = None
        is_told = False
        while not self._stop.is_set():
            try:
                found = self._secret.ensure()
                if found != written:
                    put(self._key, found.key)
                    put(self._certificate, found.certificate)
                    written = found
                if not is_told and not self._stop.is_set():
                    self._on_files()
                    is_told = True
                backoff.reset()
                self._stop.wait(self._look_s)
            except (OSError, ValueError, KubeCacheError) as error:
                wait_s = backoff.next_s()
                _log.warning(
                    "has no authority of the nodes' certificates; tries again", error=str(error), wait_s=wait_s
                )
                self._stop.wait(wait_s)
