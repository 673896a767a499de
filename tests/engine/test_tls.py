"""TLS: the right bytes over a connection that breaks, and no byte from a server that cannot prove its name."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kube_cache.dataset.source import Server
from kube_cache.engine import tls
from kube_cache.engine.connection import Connection
from kube_cache.errors import SourceUnavailable
from tests.bench.engine_origin import make_certificate
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin
from tests.engine.fetcher import no_leak
from tests.engine.objects import DATA, HEADERS, assert_whole, is_range


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem for localhost."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificate(folder)
    return folder


@pytest.fixture(params=["as built", "python"])
def tls_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native module where it could be built, and Python's ssl, which everybody has."""
    if request.param == "python":
        monkeypatch.setattr(tls, "_native", None)


@contextmanager
def tls_origin(authority: Path) -> Iterator[FaultyOrigin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    origin = FaultyOrigin(context=context, host="localhost")
    try:
        yield origin
    finally:
        origin.close()


def test_with_an_authority_of_ones_own(
    authority: Path, tls_kind: None, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with no_leak() as watched, tls_origin(authority) as server:
        watched.add(server.endpoint)
        clean_aws.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        fetcher = request.getfixturevalue("make_fetcher")(server.endpoint)
        fetcher.fetch([server.put("key", DATA, headers=HEADERS)])
        assert_whole(fetcher)
        assert fetcher.done["key"].timings.decrypt_s > 0
        fetcher.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.reset(None, 3 * (1 << 20) + 5), id="closed in the body"),
        pytest.param(faults.reset(20), id="closed in the head"),
        pytest.param(faults.stall(None, 3 * (1 << 20) + 5), id="silent in the body"),
        pytest.param(faults.stall(20), id="silent in the head"),
    ],
)
def test_a_connection_that_breaks(
    authority: Path,
    tls_kind: None,
    clean_aws: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    fault: Fault,
) -> None:
    with tls_origin(authority) as server:
        clean_aws.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        fetcher = request.getfixturevalue("make_fetcher")(server.endpoint, stall_timeout_s=0.5)
        server.script = faults.times(2, fault, when=is_range)
        fetcher.fetch([server.put("key", DATA, headers=HEADERS)])
        assert_whole(fetcher)
        fetcher.close()


def test_a_certificate_for_another_name_is_refused(
    authority: Path, tls_kind: None, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By the data plane itself: botocore, which asks first, is told to look away."""
    with tls_origin(authority) as server:
        clean_aws.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        at = Server(tls=True, host="another.example", port=server.port)
        context = tls.context(str(authority / "ca.pem"))
        with pytest.raises(SourceUnavailable, match="cannot be verified"):
            Connection(at, ("127.0.0.1", server.port), stall_s=1, context=context)
        at = Server(tls=True, host="127.0.0.1", port=server.port)
        with pytest.raises(SourceUnavailable, match="cannot be verified"):
            Connection(at, ("127.0.0.1", server.port), stall_s=1, context=context)
        Connection(
            Server(tls=True, host="localhost", port=server.port), ("127.0.0.1", server.port), stall_s=1, context=context
        ).close()


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for_is_refused(
    authority: Path, tls_kind: None, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with tls_origin(authority) as server:
        fetcher = request.getfixturevalue("make_fetcher")(server.endpoint, give_up_s=1)
        with pytest.raises(SourceUnavailable, match="AWS_CA_BUNDLE"):
            fetcher.fetch([server.put("key", DATA, headers=HEADERS)])
        fetcher.close()


def handshake(authority: Path, port: int) -> Connection:
    at = Server(tls=True, host="localhost", port=port)
    return Connection(at, ("127.0.0.1", port), stall_s=10, context=tls.context(str(authority / "ca.pem")))


def test_a_native_object_is_built_once_or_not_at_all(authority: Path) -> None:
    """Without a constructor's arguments nothing is built that a method could crash on; a second call builds nothing."""
    native = tls._native
    assert native is not None, "the native module is not built (Debian: libssl-dev)"
    for kind in (native.Context, native.Connection):
        with pytest.raises(TypeError):
            kind.__new__(kind)
    context = native.Context(str(authority / "ca.pem"), 0, "", "")
    before = _resident_kib()
    for _ in range(200):
        context.__init__(str(authority / "ca.pem"), 0, "", "")
    assert _resident_kib() - before < 1000


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@contextmanager
def asking_for_certificates(authority: Path) -> Iterator[int]:
    """Serve one connection of a client with a certificate of the authority; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    context.load_verify_locations(authority / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        accepted, _ = server.accept()
        with suppress(OSError), context.wrap_socket(accepted, server_side=True) as secured:
            secured.recv(100)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        thread.join()
        server.close()


def test_a_client_shows_its_certificate_where_it_has_one(authority: Path, tls_kind: None) -> None:
    ca, cert, key = (str(authority / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    with asking_for_certificates(authority) as port:
        context = tls.context(ca, cert, key)
        connection = Connection(Server(True, "localhost", port), ("127.0.0.1", port), stall_s=60, context=context)
        assert connection.request(b"GET / HTTP/1.1\r\n\r\n").status == 200
        connection.close()
    with asking_for_certificates(authority) as port:
        connection = handshake(authority, port)  # by TLS 1.3 the client is done before the server looks
        with pytest.raises(SourceUnavailable):
            connection.request(b"GET / HTTP/1.1\r\n\r\n")
        connection.close()


def test_a_certificate_without_its_key_is_refused_at_once(authority: Path, tmp_path: Path, tls_kind: None) -> None:
    make_certificate(tmp_path)
    with pytest.raises(OSError):
        tls.context(str(authority / "ca.pem"), str(authority / "cert.pem"), str(tmp_path / "key.pem"))
    with pytest.raises(OSError):
        tls.context(str(authority / "ca.pem"), str(tmp_path / "missing.pem"), str(tmp_path / "key.pem"))


@pytest.mark.parametrize("moment", ["head", "handshake"])
def test_a_signal_does_not_end_the_patience(
    authority: Path, tls_kind: None, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As SIGCONT does after a pause of the process."""
    may_answer = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        accepted, _ = server.accept()
        if moment == "handshake":
            may_answer.wait(10)
        with context.wrap_socket(accepted, server_side=True) as secured:
            secured.recv(100)
            may_answer.wait(10)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            secured.recv(1)

    def ask() -> None:
        connection = handshake(authority, server.getsockname()[1])
        statuses.append(connection.request(b"GET / HTTP/1.1\r\n\r\n").status)
        connection.close()

    statuses: list[int] = []
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    earlier = signal.signal(signal.SIGUSR1, count)
    threads = [threading.Thread(target=serve), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        asker = threads[1].ident
        assert asker is not None
        for _ in range(20):  # some of them meet the thread in the system call
            signal.pthread_kill(asker, signal.SIGUSR1)
            time.sleep(0.02)
        may_answer.set()
        for thread in threads:
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, earlier)
        server.close()
    assert statuses == [200]
    assert seen


def test_a_wildcard_covers_a_whole_label_only(tmp_path: Path, tls_kind: None) -> None:
    make_certificate(tmp_path, name="loc*.example")
    with tls_origin(tmp_path) as server:
        context = tls.context(str(tmp_path / "ca.pem"))
        at = Server(tls=True, host="localhost.example", port=server.port)
        with pytest.raises(SourceUnavailable, match="cannot be verified"):
            Connection(at, ("127.0.0.1", server.port), stall_s=1, context=context)


def test_both_implementations_offer_the_same_ciphers_of_tls_1_2(authority: Path, tls_kind: None) -> None:
    """CBC with SHA-1, which Python's ssl does not offer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-SHA")
    server = FaultyOrigin(context=context, host="localhost")
    try:
        with pytest.raises(SourceUnavailable, match="TLS with localhost"):
            handshake(authority, server.port)
    finally:
        server.close()
