"""Another node as a `Source` of ranges: what is asked of its server, and what its answers mean.

The connection is the engine's own, with this node's certificate and the other node's name. The answers are those of
`conversation`. A node serves by object id, which names one version of the object, so that an answer needs no comparison
with a version.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Answer, Body, Piece, Request, Server, Trust
from kube_cache.errors import AccessDenied, DatasetNotFound, SourceUnavailable
from kube_cache.peers.refusals import MemberBusy, NotYetThere
from kube_cache.peers.tls import Certificates

STALL_S: Final = 2.0
"""Patience with a silent node; the origin has the bytes as well. The server holds a request for less (`HOLD_S`)."""
_MIN_BYTES_PER_S: Final = 256 << 10
"""Arbitrary: a chunk of 2 MiB in 8 s, where the origin takes less than one."""
_REMEDY: Final = "each node needs a certificate of KUBE_CACHE_PEERS__CA_FILE with its node's name as a DNS name"


class PeerSource:
    """Implements `Source` for one node and one snapshot. Thread-safe."""

    def __init__(
        self,
        node: str,
        address: str,
        snapshot: str,
        certificates: Certificates,
        token: Callable[[], str],
        id_of: Callable[[RemoteObject], str],
    ) -> None:
        """address: `host:port` of its server. token: returns the newest. id_of: returns an object's id."""
        host, _, port = address.rpartition(":")
        self.name = node
        # What another node told may be no address at all; a port that nobody serves is met where failures are expected.
        number = int(port) if port.isascii() and port.isdigit() and int(port) < 1 << 16 else 0
        self._server = Server(tls=True, host=host.strip("[]"), port=number, name=node)
        self._snapshot = snapshot
        self._certificates = certificates
        self._token = token
        self._id_of = id_of

    def request(self, piece: Piece) -> Request:
        files = self._certificates.files
        trust = Trust(
            str(files.ca), str(files.certificate), str(files.key), _REMEDY, self._certificates.get().generation
        )
        data = (
            f"GET /v1/{self._snapshot}/{self._id_of(piece.object)} HTTP/1.1\r\nHost: {self.name}\r\n"
            f"Authorization: Bearer {self._token()}\r\nRange: bytes={piece.first}-{piece.last}\r\n\r\n"
        )
        return Request(self._server, trust, data.encode(), stall_s=STALL_S, min_bytes_per_s=_MIN_BYTES_PER_S)

    def accept(self, piece: Piece, answer: Answer) -> DeclaredChecksum | None:
        """Judge an answer.

        Raises NotYetThere, MemberBusy, DatasetNotFound (the node has no such object), AccessDenied (it does not know us
        or the token), SourceUnavailable. None of them says anything about the origin.
        """
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            return None
        said = answer.body[:200].decode(errors="replace").strip()
        message = f"node {self.name} does not give bytes of {piece.object.uri}: {answer.status} {said}"
        match answer.status:
            case HTTPStatus.CONFLICT:
                raise NotYetThere(message)
            case HTTPStatus.SERVICE_UNAVAILABLE:
                raise MemberBusy(message)
            case HTTPStatus.NOT_FOUND:
                raise DatasetNotFound(message)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise AccessDenied(message)
        raise SourceUnavailable(message)

    def open(self, piece: Piece) -> Body:
        raise SourceUnavailable(f"node {self.name} answers in a way that agents do not use; {piece.object.uri}")
