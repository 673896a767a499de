"""Credentials go into signatures and nowhere else: no log line, message, journal or repr holds one, whatever fails."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import KubeCacheError
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings
from kube_cache.origin.signing import Keys, Signer
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, HEADERS

SECRETS = ("hunter2-secret-key", "hunter2-session-token", "aHVudGVyMi1zc2UtYy1rZXktb2YtMzItYnl0ZXMhISE=", "hunter2-gs")
SETTINGS = OriginSettings(gs_access_key="GOOG1", gs_secret_key="hunter2-gs", sse_c_key=SECRETS[2])


def assert_clean(text: str) -> None:
    for secret in (*SECRETS, "hunter2", "X-Amz-Signature", "Signature="):
        assert secret not in text


@pytest.fixture
def with_secrets(clean_aws: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.MonkeyPatch:
    caplog.set_level(logging.INFO)
    clean_aws.setenv("AWS_SESSION_TOKEN", SECRETS[1])
    return clean_aws


FAULTS = [
    pytest.param(faults.status("403 Forbidden", "AccessDenied"), id="403"),
    pytest.param(faults.status("403 Forbidden", "SignatureDoesNotMatch"), id="signature"),
    pytest.param(faults.status("400 Bad Request", "ExpiredToken"), id="expired"),
    pytest.param(faults.status("404 Not Found", "NoSuchKey"), id="404"),
    pytest.param(faults.status("412 Precondition Failed"), id="412"),
    pytest.param(faults.status("500 Internal Server Error", "InternalError"), id="500"),
    pytest.param(
        faults.status("307 Temporary Redirect", "TemporaryRedirect", Location="http://127.0.0.1:9/"), id="307"
    ),
    pytest.param(faults.changed(headers={"ETag": '"other"'}), id="another ETag"),
    pytest.param(faults.changed(headers={"Content-Range": None}), id="no range"),
    pytest.param(faults.corrupt(9), id="wrong bytes"),
    pytest.param(faults.reset(5), id="reset in the head"),
    pytest.param(faults.stall(None, 0), id="silent"),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [5000, len(DATA)], ids=["small", "large"])
def test_no_fault_of_a_fetch_shows_a_secret(
    origin: FaultyOrigin,
    make_fetcher: Callable[..., Fetcher],
    with_secrets: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    fault: Fault,
    size: int,
) -> None:
    fetcher = make_fetcher(origin.endpoint, secret_key=SECRETS[0], stall_timeout_s=0.2, give_up_s=0.2)
    remote = origin.put("key", DATA[:size], headers=HEADERS)
    origin.script = lambda request: fault if request.method == "GET" else None
    with pytest.raises(KubeCacheError) as caught:
        fetcher.fetch([remote])
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(f"{caught.value.message} {caught.value.details}")
    assert_clean(caplog.text)
    for path in tmp_path.glob("*.journal"):
        assert_clean(path.read_bytes().decode("latin-1"))


@pytest.mark.parametrize(
    "line", ["403 Forbidden", "404 Not Found", "500 Internal Server Error", "307 Temporary Redirect"]
)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_no_fault_of_a_listing_shows_a_secret(
    origin: FaultyOrigin, with_secrets: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, line: str, scheme: str
) -> None:
    with_secrets.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    with_secrets.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[0])
    with_secrets.setenv("AWS_ENDPOINT_URL_S3", origin.endpoint)
    origin.script = lambda _request: faults.status(line)
    settings = OriginSettings(gs_endpoint=origin.endpoint, gs_access_key="GOOG1", gs_secret_key="hunter2-gs")
    origins = Origins(settings)
    with pytest.raises(KubeCacheError) as caught:
        list_dataset(origins.of(scheme), DatasetUri.parse(f"{scheme}://bucket/set"))
    origins.close()
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(caplog.text)


def test_half_of_the_credentials_is_not_shown(
    with_secrets: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_secrets.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[0])
    for scheme, settings in (("s3", OriginSettings()), ("gs", OriginSettings(gs_secret_key="hunter2-gs"))):
        origins = Origins(settings)
        try:
            origins.of(scheme)
            list_dataset(origins.of(scheme), DatasetUri.parse("s3://bucket/set"))
        except KubeCacheError as error:
            assert_clean("".join(traceback.format_exception(error)))
        origins.close()
    assert_clean(caplog.text)


def test_no_repr_shows_a_secret() -> None:
    signer = Signer("us-east-1")
    keys = Keys("AKIAEXAMPLE", SECRETS[0], SECRETS[1])
    signer.sign(keys, "host", "/path", "", {})
    for thing in (keys, signer, signer._derived, SETTINGS, Origins(SETTINGS)):
        assert_clean(f"{thing!r} {thing}")
    assert "GOOG1" not in repr(SETTINGS)
