"""The authority of nodes that feed each other, kept in a Secret that operators fill and a ConfigMap that agents mount.

The chart makes both empty, so that a rendering without a cluster is the same each time and holds no key. The first
operator fills the Secret, any other takes what is there, and each of them has the ConfigMap follow. So an operator
needs no right to create Secrets, but `get` and `update` of this one. Whoever empties the Secret has it made anew.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from kube_cache.errors import InvalidRequest
from kube_cache.kube.client import ApiError, KubeClient, is_not_found, resource_path

_log = structlog.get_logger("kube_cache.peers")
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITIES: Final = "ca.crt"
"""Key of the ConfigMap."""
_MAX_TRIES: Final = 5
"""Of a write that others were quicker with. There are few operators, and each writes once."""
_CONFLICT: Final = 409

Data = Mapping[str, str]


class Pair(NamedTuple):
    """Key and certificate, in PEM."""

    key: bytes
    certificate: bytes


class AuthoritySecret:
    """Any thread may call."""

    def __init__(self, kube: KubeClient, *, namespace: str, name: str, make: Callable[[], Pair]) -> None:
        """name: of Secret and ConfigMap. make: returns a new authority."""
        self._kube = kube
        self._secret = f"{resource_path('secrets', namespace)}/{name}"
        self._config = f"{resource_path('configmaps', namespace)}/{name}"
        self._make = make

    def ensure(self) -> Pair:
        """Return the authority of the cluster, which is made where there is none. Raises ApiError, InvalidRequest."""

        def filled(data: Data) -> Data | None:
            if data.get(CERTIFICATE) and data.get(KEY):
                return None
            made = self._make()
            _log.info("makes an authority of the nodes' certificates", secret=self._secret)
            return {CERTIFICATE: _encoded(made.certificate), KEY: _encoded(made.key)}

        data = self._settle(self._secret, filled)
        try:
            pair = Pair(*(base64.b64decode(data[name], validate=True) for name in (KEY, CERTIFICATE)))
            text = pair.certificate.decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{self._secret} holds no certificate and key in PEM; empty it") from error
        self._settle(self._config, lambda data: None if data.get(AUTHORITIES) == text else {AUTHORITIES: text})
        return pair

    def _settle(self, path: str, change: Callable[[Data], Data | None]) -> Data:
        """Write what `change` makes of the object's data, None leaves it; return the data as it is then."""
        for tries_left in reversed(range(_MAX_TRIES)):
            try:
                found: dict[str, Any] = self._kube.request("GET", path)
                data: Data = found.get("data") or {}
                wanted = change(data)
                if wanted is None:
                    return data
                self._kube.replace(path, {**found, "data": wanted})
                return wanted
            except ApiError as error:
                if is_not_found(error):
                    raise InvalidRequest(f"there is no {path}, which the chart makes; install it again") from error
                if error.status != _CONFLICT or not tries_left:
                    raise
        raise AssertionError("unreachable")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
