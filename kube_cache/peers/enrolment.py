"""The agent's way to its certificate: a new key, a request to the operator's issuer, two files, and again in time.

The key is made here and never leaves the node: it lies beside the certificate, in a folder in memory. Which node the
certificate names is the issuer's to say, by the token that the kubelet mounts. Without an issuer that answers, an agent
goes on with the certificate that it has, and without any it feeds nobody and fetches from the origin. The issuer also
tells where the node is, since an agent has no right to look.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.errors import AccessDenied, InvalidRequest, KubeCacheError, SourceUnavailable
from kube_cache.peers.authority import RENEWED_AT, require_native
from kube_cache.peers.issuer import PATH
from kube_cache.peers.members import Place
from kube_cache.peers.reloaded import put
from kube_cache.peers.settings import PeerSettings
from kube_cache.telemetry import peer_metrics

_log = structlog.get_logger("kube_cache.peers")
_TIMEOUT_S: Final = 20.0
"""To connect, and for the answer, before which the issuer asks the API server."""
_CLOSE_S: Final = 1.0
_MAX_ANSWER: Final = 64 << 10
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
LOOK_S: Final = 60.0
"""Between two looks whether the authority is another one: then the certificate is good for nobody."""


class Enrolled(NamedTuple):
    """What an issuer has told. life_s: seconds until the certificate ends. place: empty of an older operator."""

    life_s: int
    place: Place


class Enrolment:
    """Gets the certificate in a thread of its own, from its construction until `close`."""

    def __init__(
        self, settings: PeerSettings, on_certificate: Callable[[Place], None], *, look_s: float = LOOK_S
    ) -> None:
        """on_certificate: called in the thread with the node's place; if it raises, that is told and tried again."""
        self._settings = settings
        self._on_certificate = on_certificate
        self._look_s = look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End. A request that takes longer ends with the process: an agent has ten seconds beside its drain."""
        self._stop.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        ends = peer_metrics.CERTIFICATE_ENDS.labels("node")
        ends.set(0)
        backoff = Backoff(_MIN_PAUSE_S, _MAX_PAUSE_S)
        while not self._stop.is_set():
            try:
                authority = self._settings.ca_file.read_bytes()
                life_s, place = obtain(self._settings)
                if self._stop.is_set():
                    return
                self._on_certificate(place)
            except (OSError, ValueError, KubeCacheError) as error:
                peer_metrics.CERTIFICATE_FAILURES.inc()
                wait_s = backoff.next_s()
                _log.warning("has no new certificate; tries again", error=str(error), wait_s=round(wait_s, 1))
                self._stop.wait(wait_s)
                continue
            backoff.reset()
            ends.set(time.time() + life_s)
            _log.info("has a certificate", life_s=life_s, zone=place.zone, rack=place.rack)
            self._rest(life_s * RENEWED_AT, authority)

    def _rest(self, seconds: float, authority: bytes) -> None:
        """Wait until it is time for the next certificate, or the authority is another one."""
        while seconds > 0 and not self._stop.wait(min(seconds, self._look_s)):
            seconds -= self._look_s
            try:
                if self._settings.ca_file.read_bytes() != authority:
                    return
            except OSError:
                pass  # it is being replaced


def obtain(settings: PeerSettings) -> Enrolled:
    """Get a certificate of a new key and write both; return what was told beside it.

    Raises AccessDenied (the issuer refuses the token), SourceUnavailable (nobody answers, or not well), InvalidRequest
    (token or authority cannot be read, or the installation makes no keys), OSError (a file cannot be written).
    """
    key, request = require_native().request()
    try:
        token = settings.issuer_token_file.read_text().strip()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(settings.ca_file)
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"cannot ask for a certificate with {settings.issuer_token_file} and {settings.ca_file}: {error}; mount a"
            f" service account token of the audience {names.PEERS_AUDIENCE}, and the authority's certificate"
        ) from error
    answer = _ask(settings.issuer, context, token, request)
    try:
        found: dict[str, Any] = json.loads(answer)
        certificate, life_s = str(found["certificate"]).encode(), int(found["life_s"])
        # An operator of an older version tells no place. A label has 63 characters at most.
        place = Place(*(str(found.get(name, ""))[:63] for name in Place._fields))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceUnavailable(f"the issuer at {settings.issuer} answers with no certificate") from error
    # Who reads them in between has two files that do not fit together, and goes on with the old ones (`reloaded`).
    put(settings.key_file, key)
    put(settings.certificate_file, certificate)
    return Enrolled(life_s, place)


class _Connection(http.client.HTTPSConnection):
    """Goes to an address and takes none but the issuer's certificate there."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        host, _, port = address.rpartition(":")
        super().__init__(host.strip("[]"), int(port), timeout=_TIMEOUT_S)
        self._issuer = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._issuer.wrap_socket(self.sock, server_hostname=names.ISSUER)


def _ask(issuer: str, context: ssl.SSLContext, token: str, request: bytes) -> bytes:
    """Return the issuer's answer. Raises AccessDenied, SourceUnavailable."""
    try:
        connection = _Connection(issuer, context)
        try:
            connection.request("POST", PATH, request, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER)
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceUnavailable(
            f"the issuer of certificates at {issuer} does not answer as {names.ISSUER}: {error}; see whether operators"
            " run, and KUBE_CACHE_PEERS__ISSUER"
        ) from error
    words = body[:1000].decode(errors="replace").strip()
    if answer.status == http.client.FORBIDDEN:
        raise AccessDenied(f"the issuer at {issuer} refuses a certificate: {words}")
    if answer.status != http.client.OK:
        raise SourceUnavailable(f"the issuer at {issuer} answers {answer.status}: {words}")
    return body
