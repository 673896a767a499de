"""Who is served: certificates of both ends, and the operator's tokens, over real TLS."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.peers import reloaded
from kube_cache.peers.tls import Certificates, Files
from tests.peers.conftest import HOME, NODE, SNAPSHOT, Cluster, Connect, Serving
from tools.stack.pki import Authority

DATA = random.Random(1).randbytes(100_000)


def test_without_a_certificate_nobody_is_answered(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    served.hold(DATA)
    context = ssl.create_default_context(cafile=str(cluster.authority.certificate))
    context.check_hostname = False
    with pytest.raises(OSError):  # by TLS 1.3 the client is done before the server looks
        connect(served, context).get(cluster.token())


def test_a_certificate_of_a_foreign_authority_is_no_certificate(
    serving: Serving, connect: Connect, cluster: Cluster, tmp_path: Path
) -> None:
    served = serving()
    served.hold(DATA)
    pair = Authority(tmp_path / "foreign").node(NODE)
    foreign = Certificates(Files(cluster.authority.certificate, pair.certificate, pair.key))
    with pytest.raises(OSError):
        connect(served, foreign.get().client).get(cluster.token())


def test_nobody_speaks_to_a_server_of_a_foreign_authority(serving: Serving, connect: Connect, tmp_path: Path) -> None:
    pair = (authority := Authority(tmp_path / "foreign")).node(HOME)
    served = serving(Certificates(Files(authority.certificate, pair.certificate, pair.key)))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(served)


def test_tls_of_an_earlier_version_is_refused(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    context = Certificates(cluster.files(NODE)).get().client
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        connect(served, context)


@pytest.mark.parametrize("name", ["*.example", "node-2.example", "xnode-1.example"])
def test_a_token_is_worth_nothing_with_another_certificate(
    serving: Serving, connect: Connect, cluster: Cluster, tmp_path: Path, name: str
) -> None:
    served = serving()
    served.hold(DATA)
    answer = connect(served, Certificates(cluster.files(name)).get().client).get(cluster.token())
    assert (answer.status, b"certificate is not" in answer.body) == (403, True)


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        pytest.param(lambda cluster: cluster.token(life_s=-3600), 403, b"expired", id="expired"),
        pytest.param(lambda cluster: cluster.token(snapshot="d4" * 32), 403, b"another snapshot", id="other snapshot"),
        pytest.param(lambda cluster: cluster.token(node="node-2.example"), 403, b"certificate is not", id="other node"),
        pytest.param(lambda cluster: cluster.token()[:-8] + "AAAAAAAA", 403, b"not signed", id="changed signature"),
        pytest.param(lambda cluster: cluster.token().replace(".a1", ".b1", 1), 403, b"not signed", id="changed text"),
        pytest.param(lambda _: "kc1.nonsense", 403, b"no token", id="nonsense"),
        pytest.param(lambda _: "", 401, b"needs a token", id="none"),
    ],
)
def test_without_a_valid_token_nothing_is_given(
    serving: Serving,
    connect: Connect,
    cluster: Cluster,
    token: Callable[[Cluster], str],
    status: int,
    reason: bytes,
) -> None:
    served = serving()
    served.hold(DATA)
    client = connect(served)
    answer = client.get(token(cluster))
    assert answer.status == status
    assert reason in answer.body
    assert client.get(cluster.token()).status == 206, "the connection goes on"


def test_a_token_that_was_valid_is_looked_at_again(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    now = [0.0]
    served = serving(clock=lambda: now[0])
    served.hold(DATA)
    client = connect(served)
    token = cluster.mint.token(SNAPSHOT, NODE, 0.0, life_s=100)
    assert client.get(token).status == 206
    now[0] = 100 + 61
    assert client.get(token).status == 403


def test_a_certificate_is_rotated_without_a_dropped_connection(
    serving: Serving, connect: Connect, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloaded, "LOOK_S", 0.0)
    first = cluster.files(HOME)
    files = Files(tmp_path / "ca.crt", tmp_path / "tls.crt", tmp_path / "tls.key")
    install(first, files)
    old_key = files.key.read_bytes()
    served = serving(certificates := Certificates(files))
    served.hold(DATA)
    old = connect(served)
    shown = old.socket.getpeercert(binary_form=True)
    assert old.get(cluster.token()).status == 206
    install(cluster.files(HOME), files)
    new_key = files.key.read_bytes()
    files.key.write_bytes(old_key)  # half of a rotation: the certificate without its key
    assert connect(served).socket.getpeercert(binary_form=True) == shown
    assert certificates.error
    files.key.write_bytes(new_key)
    new = connect(served)
    assert new.socket.getpeercert(binary_form=True) != shown
    assert not certificates.error
    for client in (old, new):
        assert client.get(cluster.token()).body == DATA[:10]


def install(source: Files, target: Files) -> None:
    """Replace files as a rotation does: each by a rename."""
    for old, new in zip(source.all, target.all, strict=True):
        temporary = new.with_suffix(".new")
        temporary.write_bytes(old.read_bytes())
        temporary.replace(new)
