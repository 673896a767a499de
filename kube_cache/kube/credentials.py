"""Who we are to the API server: token and client certificate, read again when the server refuses them.

The token of a service account is replaced about once an hour in its file, a certificate in a kubeconfig by whoever
renews it. The `kubernetes` package reads a token's file again once a minute and never a certificate's, so a 401 asks
for both.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from kube_cache.errors import InvalidRequest
from kube_cache.telemetry import redaction

Configuration = kubernetes_client.Configuration

_log = structlog.get_logger("kube_cache.kube")
# Credentials that are refused for good, of an account that was deleted for instance, are read no more often than this,
# seconds: a kubeconfig may run a program to get them.
_MIN_RENEW_S = 10.0
_KUBECONFIG = "~/.kube/config"


def load() -> Configuration:
    """Read KUBECONFIG (or ~/.kube/config), else the Pod's service account. Raises InvalidRequest."""
    configuration = Configuration()
    named = os.environ.get("KUBECONFIG") or _KUBECONFIG
    try:
        # Not by load_config, which prints to standard output that it found no file.
        if any(Path(path).expanduser().exists() for path in named.split(os.pathsep) if path):
            kubernetes_config.load_kube_config(named, client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes_config.ConfigException as error:
        raise InvalidRequest(
            f"no way to reach Kubernetes: {error}; set KUBECONFIG, or run in a Pod with a service account"
        ) from error
    return configuration


class Credentials:
    """Any thread may call."""

    def __init__(self, configuration: Configuration, reload: Callable[[], Configuration] | None = None) -> None:
        """reload: reads the configuration anew; None = it cannot change."""
        self.configuration = configuration
        self.number = 0
        """Counts the renewals: which credentials a request was made with."""
        self._reload = reload
        self._renewed_at = -_MIN_RENEW_S
        self._lock = threading.Lock()

    def authorization(self) -> str | None:
        """Return the header's value, refreshed if it has expired. Raises what the `kubernetes` package raises."""
        with self._lock:  # the hook inside refreshes; the lock makes that one refresh
            # Tokens of service accounts and kubeconfigs are under the first name; the second is that of old releases.
            value: str | None = self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        # The scheme is written "bearer" for a service account's token, "Bearer" for another.
        redaction.hide((value or "").rpartition(" ")[2])
        return value

    def renew(self, refused: int) -> bool:
        """Read the credentials anew, once for all requests that were refused. False if others are not to be had.

        refused: number of the credentials that the server refused.
        """
        if self._reload is None:
            return False
        with self._lock:
            if self.number != refused:
                return True  # by another thread
            if time.monotonic() - self._renewed_at < _MIN_RENEW_S:
                return False
            self._renewed_at = time.monotonic()
            try:
                self.configuration = self._reload()
            except (InvalidRequest, kubernetes_config.ConfigException, OSError, ValueError, LookupError) as error:
                _log.warning("cannot read the Kubernetes credentials anew", error=str(error))
                return False
            self.number += 1
            _log.info("the API server refused the credentials; they were read anew")
            return True
