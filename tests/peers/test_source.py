"""A node as a source of bytes, over the engine's own connection."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Answer, Piece
from kube_cache.engine import http, tls
from kube_cache.engine.connection import Connection
from kube_cache.errors import AccessDenied, DatasetNotFound, KubeCacheError, SourceUnavailable
from kube_cache.peers.refusals import MemberBusy, NotYetThere
from kube_cache.peers.server import HOLD_S
from kube_cache.peers.source import STALL_S, PeerSource
from kube_cache.peers.tls import Certificates
from tests.peers.conftest import HOME, NODE, OBJECT, SNAPSHOT, Cluster, Served, Serving

DATA = random.Random(1).randbytes(3_000_000)
REMOTE = RemoteObject("s3", "bucket", "key", "key", len(DATA), '"etag"')
Making = Callable[..., PeerSource]


@pytest.fixture(params=["as built", "python"])
def tls_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native module where it could be built, and Python's ssl, which everybody has."""
    if request.param == "python":
        monkeypatch.setattr(tls, "_native", None)


@pytest.fixture
def source_of(cluster: Cluster) -> Making:
    def make(
        served: Served, *, node: str = HOME, token: str = "", certificates: Certificates | None = None
    ) -> PeerSource:
        certificates = certificates or Certificates(cluster.files(NODE))
        return PeerSource(
            node, served.address, SNAPSHOT, certificates, lambda: token or cluster.token(), lambda _: OBJECT
        )

    return make


@contextmanager
def connected(source: PeerSource, served: Served) -> Iterator[Connection]:
    request = source.request(Piece(REMOTE, 0, 0))
    trust = request.trust
    assert trust is not None
    connection = Connection(
        request.server,
        ("127.0.0.1", served.server.port),
        stall_s=60,
        context=tls.context(trust.authorities, trust.certificate, trust.key),
        remedy=trust.remedy,
    )
    try:
        yield connection
    finally:
        connection.close()


def fetch(connection: Connection, source: PeerSource, first: int, last: int) -> bytes:
    piece = Piece(REMOTE, first, last)
    head = connection.request(source.request(piece).data)
    if head.status >= 300:
        source.accept(piece, Answer(head.status, head.headers, connection.read(head, 4096)))
    http.check_range(head, first, last, REMOTE.size)
    assert source.accept(piece, Answer(head.status, head.headers)) is None
    data = bytearray(head.leftover)
    buffer = memoryview(bytearray(1 << 20))
    while len(data) < last - first + 1:
        received = connection.receive(buffer[: last - first + 1 - len(data)], 0, 0, with_crc32c=False)
        data += buffer[: received[0]]
    return bytes(data)


def test_ranges_come_over_one_connection(serving: Serving, source_of: Making, tls_kind: None) -> None:
    served = serving()
    served.hold(DATA)
    source = source_of(served)
    assert source.name == HOME
    with connected(source, served) as connection:
        for first, last in ((0, 2_097_151), (2_097_152, len(DATA) - 1), (5, 5)):
            assert fetch(connection, source, first, last) == DATA[first : last + 1]
        assert served.server.connections == 1


@pytest.mark.parametrize(
    ("first", "token", "expected"),
    [
        pytest.param(2_000_000, "", NotYetThere, id="not verified yet"),
        pytest.param(0, "kc1.no", AccessDenied, id="a token that is none"),
    ],
)
def test_a_refusal_tells_why(
    serving: Serving, source_of: Making, first: int, token: str, expected: type[KubeCacheError]
) -> None:
    served = serving()
    served.hold(DATA, verified=2_000_000)
    source = source_of(served, token=token)
    with connected(source, served) as connection, pytest.raises(expected, match=HOME):
        fetch(connection, source, first, first + 9)


def test_an_object_that_is_gone_and_a_node_that_is_busy_are_told_apart(serving: Serving, source_of: Making) -> None:
    served = serving(max_transfers=1)
    source = source_of(served)
    with connected(source, served) as connection, pytest.raises(DatasetNotFound):
        fetch(connection, source, 0, 9)
    served.hold(DATA)
    slots = served.server._service.slots
    buffer = slots.take()
    assert buffer is not None
    with connected(source, served) as connection:
        with pytest.raises(MemberBusy):
            fetch(connection, source, 0, 9)
        slots.give_back(buffer)
        assert fetch(connection, source, 0, 9) == DATA[:10]


def test_a_node_with_another_name_is_not_believed(serving: Serving, source_of: Making, tls_kind: None) -> None:
    served = serving()
    source = source_of(served, node="other.example")
    with pytest.raises(SourceUnavailable, match="KUBE_CACHE_PEERS__CA_FILE"), connected(source, served):
        pass


def test_the_engine_is_told_of_new_certificates(
    serving: Serving, source_of: Making, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kube_cache.peers import reloaded

    monkeypatch.setattr(reloaded, "LOOK_S", 0.0)
    files = cluster.files("rotated.example")
    source = source_of(serving(), certificates=Certificates(files))
    piece = Piece(REMOTE, 0, 0)
    before = source.request(piece).trust
    assert source.request(piece).trust == before
    cluster.files("rotated.example")  # writes over the same files
    assert source.request(piece).trust != before


def test_a_request_that_is_held_is_answered_before_it_counts_as_stalled() -> None:
    assert HOLD_S <= STALL_S - 0.5


def test_an_address_that_is_none_fails_when_it_is_used(cluster: Cluster) -> None:
    certificates = Certificates(cluster.files(NODE))
    for address in ("", "nonsense", "host:port", "host:99999", "host:²"):
        source = PeerSource("n", address, SNAPSHOT, certificates, cluster.token, lambda _: OBJECT)
        assert source.request(Piece(REMOTE, 0, 0)).server.port == 0
