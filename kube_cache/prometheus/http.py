"""One request to Prometheus' HTTP API: within its time, within its size, or an error that says what is wrong.

The time is of the whole request: a server that sends a byte now and then must not hold an activity for ever, so a timer
shuts the connection down. No redirect is followed and no credential is taken from the address: a token goes where the
owner of the settings sent it, and nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

from kube_cache.errors import InvalidRequest, PrometheusAnswerUnusable, PrometheusUnavailable
from kube_cache.units import format_bytes, format_seconds

_MAX_ANSWER_BYTES = 64 << 20  # 11,000 points of some 100 datasets; more than that is an expression that was not summed
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    url: str
    """Where `/api/v1` is, with a path before it where a proxy wants one."""
    timeout_s: float = 30.0
    """Of a request and its answer."""
    token_file: str = ""
    """Holds a bearer token, read for each request; empty for none."""
    ca_file: str = ""
    """Of https; empty for the system's authorities."""


class Answer(NamedTuple):
    status: int
    body: bytes
    retry_after_s: float
    location: str


def post(endpoint: Endpoint, path: str, fields: Mapping[str, str]) -> Answer:
    """Send a form, which holds expressions of any length, and return the answer, whatever its status.

    Raises InvalidRequest for an address that is none, PrometheusUnavailable and PrometheusAnswerUnusable.
    """
    url = _address(endpoint)
    connection = _connection(endpoint, url)
    late = threading.Event()
    # Of our own, since the connection forgets its socket when an answer says that it is the last.
    sockets: list[socket.socket] = []

    def shut_down() -> None:
        late.set()
        for each in sockets:
            with contextlib.suppress(OSError):
                # Not the method of an SSL socket: it takes the session away from the thread that reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    timer = threading.Timer(endpoint.timeout_s, shut_down)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        sockets.append(connection.sock)
        if late.is_set():  # looking up the name took all the time
            raise TimeoutError
        connection.request("POST", url.path.rstrip("/") + path, urlencode(fields), _headers(endpoint))
        answer = _read(endpoint, connection.getresponse())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unavailable(endpoint, "no answer in time" if late.is_set() else str(error) or repr(error)) from error
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():  # an answer without a length ends where the connection was shut down
        raise _unavailable(endpoint, "no answer in time")
    return answer


def _read(endpoint: Endpoint, response: http.client.HTTPResponse) -> Answer:
    body = bytearray()
    while piece := response.read(_PIECE_BYTES):
        body += piece
        if len(body) > _MAX_ANSWER_BYTES:
            raise PrometheusAnswerUnusable(
                f"Prometheus at {endpoint.url} answers with more than {format_bytes(_MAX_ANSWER_BYTES)}: sum the series, "
                "as sum by (dataset) (…), or ask for fewer datasets",
                url=endpoint.url,
            )
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    wait = response.headers.get("Retry-After", "")
    return Answer(
        response.status,
        bytes(body),
        float(wait) if wait.isascii() and wait.isdigit() else 0.0,
        response.headers.get("Location", ""),
    )


def _address(endpoint: Endpoint) -> SplitResult:
    try:
        url = urlsplit(endpoint.url)
        known = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known:
        raise InvalidRequest(
            f"Prometheus' address {endpoint.url!r} is none; write it like http://prometheus.monitoring:9090"
        )
    if url.username is not None or url.query or url.fragment:
        raise InvalidRequest(
            f"Prometheus' address on {url.hostname} has more than a host and a path; a token belongs into a file"
        )
    return url


def _connection(endpoint: Endpoint, url: SplitResult) -> http.client.HTTPConnection:
    assert url.hostname is not None
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, url.port, timeout=endpoint.timeout_s)
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise PrometheusUnavailable(
            f"the authority of Prometheus in {endpoint.ca_file} cannot be read: {error}", url=endpoint.url
        ) from error
    return http.client.HTTPSConnection(url.hostname, url.port, timeout=endpoint.timeout_s, context=context)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if endpoint.token_file:
        try:
            token = Path(endpoint.token_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise PrometheusUnavailable(
                f"the token for Prometheus cannot be read: {error}", url=endpoint.url
            ) from error
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _unavailable(endpoint: Endpoint, reason: str) -> PrometheusUnavailable:
    return PrometheusUnavailable(
        f"Prometheus at {endpoint.url} does not answer within {format_seconds(endpoint.timeout_s)}: {reason}",
        url=endpoint.url,
    )
