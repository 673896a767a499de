"""Credentials and certificates: what is missing is named with process and place, and both planes trust alike."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.source import Server
from kube_cache.engine import tls
from kube_cache.engine.connection import Connection
from kube_cache.errors import AccessDenied, InvalidRequest, SourceUnavailable
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings
from tests.bench.engine_origin import make_certificate
from tests.engine.faulty_origin import FaultyOrigin

BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture
def no_bundles(clean_aws: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in BUNDLES:
        clean_aws.delenv(name, raising=False)
    return clean_aws


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem and key.pem for localhost."""
    folder = tmp_path_factory.mktemp("ca")
    make_certificate(folder)
    return folder


@pytest.fixture
def server(authority: Path) -> Iterator[FaultyOrigin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    server = FaultyOrigin(context=context, host="localhost")
    yield server
    server.close()


@pytest.mark.parametrize("process", ["agent", "operator"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("GS_ACCESS_KEY", "GS_SECRET_KEY"), ("", "GS_ACCESS_KEY")],
)
def test_half_of_the_credentials_names_the_process_the_other_half_and_the_place(
    clean_aws: pytest.MonkeyPatch, process: str, given: str, missing: str
) -> None:
    settings = OriginSettings(gs_access_key="GOOG1" if given == "GS_ACCESS_KEY" else "")
    if given == "AWS_ACCESS_KEY_ID":
        clean_aws.setenv(given, "AKIAEXAMPLE")
    origins = Origins(settings, process=process)
    with pytest.raises(AccessDenied) as caught:
        origins.of("s3" if given.startswith("AWS") else "gs")
    assert missing in caught.value.message
    assert f"the {process} has" in caught.value.message
    assert "environment" in caught.value.message


def test_google_never_sees_the_aws_credentials(clean_aws: pytest.MonkeyPatch) -> None:
    clean_aws.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    clean_aws.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(AccessDenied, match="AWS credentials are not sent to Google"):
        Origins(OriginSettings()).of("gs")
    origins = Origins(OriginSettings(gs_access_key="GOOG1", gs_secret_key="s"))
    frozen = origins.of("gs")._credentials.get_frozen_credentials()  # type: ignore[union-attr]
    origins.close()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("GOOG1", "s", None)


def test_an_anonymous_google_bucket_needs_no_keys(clean_aws: pytest.MonkeyPatch) -> None:
    origins = Origins(OriginSettings(anonymous=True))
    assert origins.of("gs")._credentials is None
    origins.close()


@pytest.mark.parametrize("name", BUNDLES)
def test_each_variable_for_certificates_serves_both_planes(
    no_bundles: pytest.MonkeyPatch, authority: Path, server: FaultyOrigin, name: str
) -> None:
    no_bundles.setenv(name, str(authority / "ca.pem"))
    no_bundles.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    origins = Origins(OriginSettings(anonymous=True))
    origin = origins.of("s3")
    assert origin.head(server.put("key", b"x")).size == 1
    assert origin.trust.authorities == str(authority / "ca.pem")
    at = Server(tls=True, host="localhost", port=server.port)
    Connection(at, ("127.0.0.1", server.port), stall_s=1, context=tls.context(origin.trust.authorities)).close()
    origins.close()


def test_the_bundle_of_aws_goes_first(no_bundles: pytest.MonkeyPatch, authority: Path, tmp_path: Path) -> None:
    for name in BUNDLES:
        no_bundles.setenv(name, str(authority / "cert.pem"))
    no_bundles.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
    origins = Origins(OriginSettings(anonymous=True))
    assert origins.of("s3").trust.authorities == str(authority / "ca.pem")
    origins.close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "no PEM"])
@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_cannot_be_used_is_refused_at_once(
    no_bundles: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    no_bundles.setenv(name, str(path))
    with pytest.raises(InvalidRequest, match=f"the CA bundle '{path}' cannot be used.*{name}"):
        Origins(OriginSettings(anonymous=True)).of("s3")


def test_both_planes_refuse_a_bundle_without_the_root_in_the_same_words(
    no_bundles: pytest.MonkeyPatch, server: FaultyOrigin, authority: Path
) -> None:
    """The server's own certificate, or an intermediate, is no root."""
    no_bundles.setenv("REQUESTS_CA_BUNDLE", str(authority / "cert.pem"))
    no_bundles.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    origins = Origins(OriginSettings(anonymous=True))
    remote = server.put("key", b"x")
    words = "REQUESTS_CA_BUNDLE.*its root certificate; an intermediate alone is not enough"
    with pytest.raises(SourceUnavailable, match=words):
        origins.of("s3").head(remote)
    at = Server(tls=True, host="localhost", port=server.port)
    context = tls.context(origins.of("s3").trust.authorities)
    with pytest.raises(SourceUnavailable, match=words):
        Connection(at, ("127.0.0.1", server.port), stall_s=1, context=context, remedy=origins.of("s3").trust.remedy)
    origins.close()
