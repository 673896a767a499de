"""The issuer signs for the node that a token names; everybody else is told why not."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from kube_cache import names
from kube_cache.errors import SourceUnavailable
from kube_cache.peers.authority import LIFE_S, require_native
from kube_cache.peers.enrolment import obtain
from kube_cache.peers.issuer import PATH
from kube_cache.peers.members import Place
from tests.peers.conftest import Answer, Client, eventually
from tests.peers.issuing import Issuing
from tests.telemetry.scrape import Changes

ANSWERS = "kube_cache_certificates_total"


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


@pytest.fixture
def served(issuing: Issuing) -> Iterator[Issuing]:
    with issuing.serving():
        yield issuing


def ask(issuing: Issuing, request: bytes) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(issuing.certificate)
    client = Client(int(issuing.address.rpartition(":")[2]), context)
    try:
        return client.ask(request)
    finally:
        client.socket.close()


def post(body: bytes, *, token: str = "token-of-node-1", path: str = PATH, method: str = "POST") -> bytes:
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"{method} {path} HTTP/1.1\r\n{authorization}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_node_of_the_token_is_named(served: Issuing) -> None:
    changes = Changes()
    answer = ask(served, post(require_native().request()[1]))
    assert answer.status == 200
    assert changes.of(ANSWERS, result="issued") == 1
    found = json.loads(answer.body)
    certificate = x509.load_pem_x509_certificate(found["certificate"].encode())
    subject = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(subject) == [x509.DNSName("node-1")]
    assert found["life_s"] == LIFE_S
    assert (found["zone"], found["rack"]) == ("", "")


def test_the_place_of_the_node_is_told(served: Issuing) -> None:
    served.places["node-1"] = Place("zone-a", "rack-7")
    assert obtain(served.settings("node-1")).place == Place("zone-a", "rack-7")
    assert obtain(served.settings("node-2")).place == Place()


def test_a_place_that_cannot_be_found_out_is_asked_for_again(issuing: Issuing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without its zone would ask its neighbours in any order for as long as the certificate is good."""

    def fails(_: str) -> Place:
        raise SourceUnavailable("the Kubernetes API does not answer")

    monkeypatch.setattr(issuing, "place_of", fails)
    with issuing.serving(), pytest.raises(SourceUnavailable, match="the Kubernetes API does not answer"):
        obtain(issuing.settings("node-1"))


def test_a_token_that_gives_no_right_is_refused_with_the_reason(served: Issuing) -> None:
    changes = Changes()
    answer = ask(served, post(require_native().request()[1], token="stolen"))
    assert (changes.of(ANSWERS, result="denied"), changes.of(ANSWERS, result="issued")) == (1, 0)
    assert (answer.status, answer.body) == (403, b"the token is none of an agent\n")


def test_an_api_server_that_does_not_answer_is_no_refusal(served: Issuing) -> None:
    served.refusal = SourceUnavailable("the Kubernetes API does not answer")
    changes = Changes()
    answer = ask(served, post(require_native().request()[1]))
    assert (answer.status, answer.body) == (503, b"the Kubernetes API does not answer\n")
    assert changes.of(ANSWERS, result="unanswered") == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(post(b"no request"), 400, id="no request for a certificate"),
        pytest.param(post(b"x", token=""), 401, id="no token"),
        pytest.param(post(b"", method="GET"), 404, id="another method"),
        pytest.param(post(b"x", path="/"), 404, id="another path"),
        pytest.param(f"POST {PATH} HTTP/1.1\r\nContent-Length: 9000\r\n\r\n".encode(), 413, id="too long"),
        pytest.param(f"POST {PATH} HTTP/1.1\r\n\r\n".encode(), 413, id="no length"),
        pytest.param(b"hello\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"y" * 5000, 431, id="a long head"),
    ],
)
def test_what_is_no_request_is_refused(served: Issuing, request_: bytes, status: int) -> None:
    assert ask(served, request_).status == status


def test_a_node_that_would_be_the_issuer_gets_no_certificate(served: Issuing) -> None:
    answer = ask(served, post(require_native().request()[1], token=f"token-of-{names.ISSUER}"))
    assert answer.status == 400
    assert b"no name of a node" in answer.body


def test_without_a_whole_request_no_token_is_asked_about(issuing: Issuing) -> None:
    with issuing.serving(patience_s=0.2):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(issuing.certificate)
        client = Client(int(issuing.address.rpartition(":")[2]), context)
        client.socket.sendall(post(b"half")[:-1])
        assert client.is_closed()
        client.socket.close()
    assert issuing.asked == []


def test_who_says_nothing_keeps_no_place(issuing: Issuing) -> None:
    with issuing.serving(patience_s=0.2) as address:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 90) as raw:
            assert raw.recv(1) == b""


def test_another_authority_serves_from_the_next_connection_on(served: Issuing) -> None:
    assert obtain(served.settings("node-1")).life_s == LIFE_S
    old = served.certificate.read_bytes()
    served.renew_authority()
    assert old != served.certificate.read_bytes()

    def is_taken() -> bool:
        try:
            return obtain(served.settings("node-1")).life_s > 0
        except SourceUnavailable:  # an answer under the old authority
            return False

    eventually(is_taken)
    certificate = x509.load_pem_x509_certificate(served.settings("node-1").certificate_file.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(served.certificate.read_bytes()))
