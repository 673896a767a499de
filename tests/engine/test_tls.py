"""TLS: the right bytes over a connection that breaks, and no byte from a server that cannot prove its name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kube_cache.engine import tls
from kube_cache.engine.connection import Connection, Target
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
    with no_leak(), tls_origin(authority) as server:
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
        target = Target(tls=True, host="another.example", port=server.port)
        context = tls.context(str(authority / "ca.pem"))
        with pytest.raises(SourceUnavailable, match="cannot be verified"):
            Connection(target, ("127.0.0.1", server.port), stall_s=1, context=context)
        target = Target(tls=True, host="127.0.0.1", port=server.port)
        with pytest.raises(SourceUnavailable, match="cannot be verified"):
            Connection(target, ("127.0.0.1", server.port), stall_s=1, context=context)
        Connection(
            Target(tls=True, host="localhost", port=server.port), ("127.0.0.1", server.port), stall_s=1, context=context
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
