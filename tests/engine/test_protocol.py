"""What the engine says to a store: pins, signatures, keys of the customer, TLS, proxies, Google's dialect."""

from __future__ import annotations

import hashlib
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from awscrt import checksums

from kube_cache.dataset.transfer import RemoteObject
from kube_cache.engine import tls
from kube_cache.engine.connection import Connection, Target
from kube_cache.errors import SourceUnavailable
from kube_cache.origin.settings import OriginSettings
from tests.engine import origin as faults
from tests.engine.conftest import Fetcher, no_leak
from tests.engine.origin import Origin
from tests.engine.test_faults import DATA, SUM, whole


def test_every_range_is_signed_and_pinned(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    found = origin.put("key", DATA, headers={**SUM, "x-amz-version-id": "v 7/x"})
    one = fetcher(origin.endpoint)
    one.fetch([found])
    whole(one)
    assert len(origin.gets()) == 3
    for request in origin.gets():
        assert request.target == "/bucket/key?versionId=v%207%2Fx"
        assert request.headers["if-match"] == found.etag
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
        assert "if-match" in request.headers["authorization"]
        assert "accept-encoding" not in request.headers["authorization"]


def test_who_may_not_read_versions_goes_on_by_etag(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    found = origin.put("key", DATA, headers={**SUM, "x-amz-version-id": "v7"})
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied") if "versionId" in request.target else None
    )
    one = fetcher(origin.endpoint)
    one.fetch([found])
    whole(one)


def test_a_small_object_is_one_request(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint)
    one.fetch([origin.put("first", b"x")])  # learns where the bucket is
    before = len(origin.requests)
    one.fetch([origin.put("second", b"y")])
    (request,) = origin.requests[before:]
    assert request.method == "GET"
    assert request.headers["x-amz-checksum-mode"] == "ENABLED"
    assert "range" not in request.headers


def test_keys_of_the_customer_and_requester_pays_are_on_every_request(
    origin: Origin, fetcher: Callable[..., Fetcher]
) -> None:
    key = b"k" * 32
    one = fetcher(
        origin.endpoint,
        origin_settings=OriginSettings(requester_pays=True, sse_c_key=b64encode(key).decode()),
    )
    # botocore, rightly, sends a key over TLS only: this test looks at the data plane's requests alone.
    remote = origin.put("key", b"abc")
    store = one.origins.of("s3")
    store._client.meta.events.unregister("before-sign.s3")
    headers = store._range_requests._constant_headers
    prefix = "x-amz-server-side-encryption-customer"
    assert headers == {
        "x-amz-request-payer": "requester",
        f"{prefix}-algorithm": "AES256",
        f"{prefix}-key": b64encode(key).decode(),
        f"{prefix}-key-MD5": b64encode(hashlib.md5(key).digest()).decode(),
    }
    route = _route(origin)
    text = store.request(route, remote, None, {}).decode()
    for name, value in headers.items():
        assert f"\r\n{name}: {value}\r\n" in text


def test_an_anonymous_request_is_not_signed(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint, origin_settings=OriginSettings(anonymous=True))
    one.fetch([origin.put("key", DATA, headers=SUM)])
    whole(one)
    assert not [request for request in origin.requests if "authorization" in request.headers]


@pytest.mark.parametrize("key", ["a b", "ü/ñ", "per%cent", "q?uestion", "#hash", "plus+", "a=b&c", "~tilde(1)!*'"])
def test_keys_of_every_kind(origin: Origin, fetcher: Callable[..., Fetcher], key: str) -> None:
    from urllib.parse import unquote

    one = fetcher(origin.endpoint)
    stored = origin.put(key, DATA, headers=SUM)
    for name in list(origin.objects):
        origin.objects[_quoted(name)] = origin.objects[name]
    one.fetch([stored])
    assert one.content(key) == DATA
    assert {unquote(request.target.removeprefix("/bucket/")) for request in origin.requests} == {key}


def _quoted(key: str) -> str:
    from urllib.parse import quote

    return quote(key, safe="/~-._")


# Google's dialect.


def test_gcs_by_its_xml_api(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    value = b64encode(checksums.crc32c(DATA).to_bytes(4, "big")).decode()
    headers = {"x-goog-hash": f"crc32c={value}", "x-goog-generation": "1700000000000001"}
    stored = origin.put("key", DATA, headers=headers)
    found = RemoteObject("gs", "bucket", "key", "key", stored.size, stored.etag)
    one = fetcher(
        origin.endpoint,
        origin_settings=OriginSettings(gs_endpoint=origin.endpoint, gs_access_key="GOOG1", gs_secret_key="s"),
    )
    one.fetch([found])
    whole(one)
    for request in origin.gets():
        assert request.target == "/bucket/key?generation=1700000000000001"
        assert request.headers["accept-encoding"] == "gzip"
        assert "GOOG1/" in request.headers["authorization"]
    assert not [
        name for request in origin.requests for name in request.headers if "checksum" in name and "mode" not in name
    ]
    assert not [request for request in origin.gets() if "x-amz-checksum-mode" in request.headers]


def test_gcs_notices_a_wrong_byte(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    value = b64encode(checksums.crc32c(DATA).to_bytes(4, "big")).decode()
    stored = origin.put("key", DATA, headers={"x-goog-hash": f"crc32c={value},md5=AAAA"})
    found = RemoteObject("gs", "bucket", "key", "key", stored.size, stored.etag)
    origin.script = faults.times(1, faults.corrupt(3), when=lambda request: request.range is not None)
    one = fetcher(origin.endpoint, origin_settings=OriginSettings(gs_endpoint=origin.endpoint))
    one.fetch([found])
    whole(one)


# TLS and proxies.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem for localhost."""
    from tests.bench.engine_origin import _certificate

    folder = tmp_path_factory.mktemp("ca")
    _certificate(folder)
    return folder


@pytest.fixture(params=["as built", "python"])
def tls_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native module where it could be built, and Python's ssl, which everybody has."""
    if request.param == "python":
        monkeypatch.setattr(tls, "_native", None)


@contextmanager
def tls_origin(authority: Path) -> Iterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    made = Origin(context=context, host="localhost")
    try:
        yield made
    finally:
        made.close()


def test_tls_with_an_authority_of_ones_own(
    authority: Path, tls_kind: None, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with no_leak(), tls_origin(authority) as server:
        clean_aws.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        one = request.getfixturevalue("fetcher")(server.endpoint)
        one.fetch([server.put("key", DATA, headers=SUM)])
        whole(one)
        assert one.done["key"].timings.decrypt_s > 0
        one.engine.close()
        one.origins.close()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.reset(None, 3 * (1 << 20) + 5), id="closed in the body"),
        pytest.param(faults.reset(20), id="closed in the head"),
        pytest.param(faults.stall(None, 3 * (1 << 20) + 5), id="silent in the body"),
        pytest.param(faults.stall(20), id="silent in the head"),
    ],
)
def test_tls_that_breaks(
    authority: Path,
    tls_kind: None,
    clean_aws: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    fault: faults.Fault,
) -> None:
    with tls_origin(authority) as server:
        clean_aws.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        one = request.getfixturevalue("fetcher")(server.endpoint, stall_timeout_s=0.5)
        server.script = faults.times(2, fault, when=lambda asked: asked.range is not None)
        one.fetch([server.put("key", DATA, headers=SUM)])
        whole(one)
        one.engine.close()
        one.origins.close()


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


def test_a_certificate_that_nobody_vouches_for_is_refused(
    authority: Path, tls_kind: None, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with tls_origin(authority) as server:
        one = request.getfixturevalue("fetcher")(server.endpoint, give_up_s=1)
        with pytest.raises(SourceUnavailable, match="AWS_CA_BUNDLE"):
            one.fetch([server.put("key", DATA, headers=SUM)])
        one.engine.close()
        one.origins.close()


def test_the_environments_proxy_is_used(
    origin: Origin, fetcher: Callable[..., Fetcher], clean_aws: pytest.MonkeyPatch
) -> None:
    clean_aws.setenv("http_proxy", origin.endpoint)
    one = fetcher("http://store.invalid")  # nobody resolves this name: only the proxy can serve it
    one.fetch([origin.put("key", DATA, headers=SUM)])
    whole(one)
    assert {request.headers["host"] for request in origin.requests} == {"store.invalid"}


def _route(origin: Origin):  # type: ignore[no-untyped-def]
    from kube_cache.origin.routes import Route

    return Route(False, "127.0.0.1", origin.port, f"127.0.0.1:{origin.port}", "/bucket/", "us-east-1", True)
