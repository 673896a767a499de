"""What the engine says to a server: version pins, signatures, keys of the customer, proxies, Google's dialect."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote, unquote

import pytest
from awscrt import checksums

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Piece
from kube_cache.origin.routes import Route
from kube_cache.origin.settings import OriginSettings
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, HEADERS, assert_whole, is_range


def test_every_range_is_signed_and_pinned(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    remote = origin.put("key", DATA, headers={**HEADERS, "x-amz-version-id": "v 7/x"})
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([remote])
    assert_whole(fetcher)
    assert len(origin.gets()) == 3
    for request in origin.gets():
        assert request.target == "/bucket/key?versionId=v%207%2Fx"
        assert request.headers["if-match"] == remote.etag
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
        assert "if-match" in request.headers["authorization"]
        assert "accept-encoding" not in request.headers["authorization"]


def test_without_the_right_to_read_versions_the_etag_alone_pins(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    remote = origin.put("key", DATA, headers={**HEADERS, "x-amz-version-id": "v7"})
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied") if "versionId" in request.target else None
    )
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([remote])
    assert_whole(fetcher)


def test_a_small_object_is_one_request(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([origin.put("first", b"x")])  # learns where the bucket is
    before = len(origin.requests)
    fetcher.fetch([origin.put("second", b"y")])
    (request,) = origin.requests[before:]
    assert request.method == "GET"
    assert request.headers["x-amz-checksum-mode"] == "ENABLED"
    assert "range" not in request.headers


def test_keys_of_the_customer_and_requester_pays_are_on_every_request(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    key = b"k" * 32
    fetcher = make_fetcher(
        origin.endpoint,
        origin_settings=OriginSettings(requester_pays=True, sse_c_key=b64encode(key).decode()),
    )
    # botocore, rightly, sends a key over TLS only: this test looks at the data plane's requests alone.
    remote = origin.put("key", b"abc")
    client = fetcher.origins.of("s3")
    client._client.meta.events.unregister("before-sign.s3")
    headers = client._range_requests._constant_headers
    prefix = "x-amz-server-side-encryption-customer"
    assert headers == {
        "x-amz-request-payer": "requester",
        f"{prefix}-algorithm": "AES256",
        f"{prefix}-key": b64encode(key).decode(),
        f"{prefix}-key-MD5": b64encode(hashlib.md5(key).digest()).decode(),
    }
    client._routes["bucket"] = _route(origin)
    request = client.request(Piece(remote, 0, 2))
    assert request is not None
    text = request.data.decode()
    for name, value in headers.items():
        assert f"\r\n{name}: {value}\r\n" in text


def test_an_anonymous_request_is_not_signed(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint, origin_settings=OriginSettings(anonymous=True))
    fetcher.fetch([origin.put("key", DATA, headers=HEADERS)])
    assert_whole(fetcher)
    assert not [request for request in origin.requests if "authorization" in request.headers]


@pytest.mark.parametrize("key", ["a b", "ü/ñ", "per%cent", "q?uestion", "#hash", "plus+", "a=b&c", "~tilde(1)!*'"])
def test_keys_of_every_kind(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], key: str) -> None:
    fetcher = make_fetcher(origin.endpoint)
    stored = origin.put(key, DATA, headers=HEADERS)
    for name in list(origin.objects):
        origin.objects[_quoted(name)] = origin.objects[name]
    fetcher.fetch([stored])
    assert fetcher.content(key) == DATA
    assert {unquote(request.target.removeprefix("/bucket/")) for request in origin.requests} == {key}


def _quoted(key: str) -> str:
    return quote(key, safe="/~-._")


def test_gcs_by_its_xml_api(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    value = b64encode(checksums.crc32c(DATA).to_bytes(4, "big")).decode()
    headers = {"x-goog-hash": f"crc32c={value}", "x-goog-generation": "1700000000000001"}
    stored = origin.put("key", DATA, headers=headers)
    remote = RemoteObject("gs", "bucket", "key", "key", stored.size, stored.etag)
    fetcher = make_fetcher(
        origin.endpoint,
        origin_settings=OriginSettings(gs_endpoint=origin.endpoint, gs_access_key="GOOG1", gs_secret_key="s"),
    )
    fetcher.fetch([remote])
    assert_whole(fetcher)
    for request in origin.gets():
        assert request.target == "/bucket/key?generation=1700000000000001"
        assert request.headers["accept-encoding"] == "gzip"
        assert "GOOG1/" in request.headers["authorization"]
    assert not [
        name for request in origin.requests for name in request.headers if "checksum" in name and "mode" not in name
    ]
    assert not [request for request in origin.gets() if "x-amz-checksum-mode" in request.headers]


def test_gcs_notices_a_wrong_byte(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    value = b64encode(checksums.crc32c(DATA).to_bytes(4, "big")).decode()
    stored = origin.put("key", DATA, headers={"x-goog-hash": f"crc32c={value},md5=AAAA"})
    remote = RemoteObject("gs", "bucket", "key", "key", stored.size, stored.etag)
    origin.script = faults.times(1, faults.corrupt(3), when=is_range)
    fetcher = make_fetcher(
        origin.endpoint,
        origin_settings=OriginSettings(gs_endpoint=origin.endpoint, gs_access_key="GOOG1", gs_secret_key="s"),
    )
    fetcher.fetch([remote])
    assert_whole(fetcher)


def test_the_environments_proxy_is_used(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], clean_aws: pytest.MonkeyPatch
) -> None:
    clean_aws.setenv("http_proxy", origin.endpoint)
    fetcher = make_fetcher("http://origin.invalid")  # nobody resolves this name: only the proxy can serve it
    fetcher.fetch([origin.put("key", DATA, headers=HEADERS)])
    assert_whole(fetcher)
    assert {request.headers["host"] for request in origin.requests} == {"origin.invalid"}


def _route(origin: FaultyOrigin) -> Route:
    return Route(False, "127.0.0.1", origin.port, f"127.0.0.1:{origin.port}", "/bucket/", "us-east-1", True)


def test_a_bucket_that_moved_is_found_again(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    """The route is learnt from a HEAD of botocore's, which follows redirects; one range is told of the new place."""
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([origin.put("first", b"x")])
    fetcher.progress.clear()  # that of this call, if it was slow enough to tell any
    client = fetcher.origins.of("s3")
    client._routes["bucket"] = replace(client._routes["bucket"], region="eu-west-1")
    origin.script = lambda request: (
        faults.status("400 Bad Request", "AuthorizationHeaderMalformed")
        if "/eu-west-1/" in request.headers.get("authorization", "")
        else None
    )
    fetcher.fetch([origin.put("key", DATA, headers=HEADERS)])
    assert_whole(fetcher)
    fetcher.fetch([origin.put("last", b"y")])
    assert client._routes["bucket"].region == "us-east-1"


def test_no_answer_of_a_store_adds_a_header_or_a_query(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    fetcher = make_fetcher(origin.endpoint)
    remote = origin.put("key", b"abc")
    request = fetcher.origins.of("s3").request(Piece(remote, 0, 2, "1&versionId=2 HTTP/1.1\r\nX-Injected: 1"))
    assert request is not None
    first, *headers = request.data.decode().split("\r\n")
    assert first == "GET /bucket/key?generation=1%26versionId%3D2%20HTTP%2F1.1%0D%0AX-Injected%3A%201 HTTP/1.1"
    assert not [line for line in headers if line.startswith("X-Injected")]
