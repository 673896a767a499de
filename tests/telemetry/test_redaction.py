"""A credential is masked in whatever form it comes; what is no credential stays."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kube_cache.telemetry import redaction
from kube_cache.telemetry.redaction import MASK, hide, is_secret, redact

SECRET = "hunter2-Zx9/+kT4=="
PRESIGNED = (
    "https://b.s3.amazonaws.com/k?versionId=7&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential=AKIAEXAMPLE%2F20260131%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Security-Token={SECRET}"
    "&X-Amz-Expires=900&X-Amz-Signature=0badc0de"
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_forms", ())
    redaction._known.clear()
    yield
    redaction._known.clear()


def test_a_presigned_query_loses_its_secrets_and_keeps_the_rest() -> None:
    text = redact(f"GET {PRESIGNED} failed")
    assert text == (
        "GET https://b.s3.amazonaws.com/k?versionId=7&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential={MASK}&X-Amz-Security-Token={MASK}&X-Amz-Expires=900&X-Amz-Signature={MASK} failed"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"Authorization: AWS4-HMAC-SHA256 Credential=A/b, Signature={SECRET}", id="header"),
        pytest.param(f"Authorization: Custom {SECRET}", id="unknown scheme"),
        pytest.param(f"{{'Authorization': 'Bearer {SECRET}'}}", id="dict"),
        pytest.param(f"{{'authorization': b'Basic {SECRET}'}}", id="bytes"),
        pytest.param(json.dumps({"Authorization": f"Bearer {SECRET}"}), id="JSON"),
        pytest.param(json.dumps(json.dumps({"X-Amz-Security-Token": SECRET})), id="JSON in JSON"),
        pytest.param(f"[('x-amz-security-token', '{SECRET}'), ('host', 'b')]", id="pairs"),
        pytest.param(f"x-amz-server-side-encryption-customer-key: {SECRET}", id="customer's key"),
        pytest.param(f"https://storage.googleapis.com/b/k?X-Goog-Signature={SECRET}", id="GCS"),
        pytest.param(f"https://a.blob.core.windows.net/c/b?sv=2022&sig={SECRET}", id="Azure"),
        pytest.param(f"https://b/k?AWSAccessKeyId=A&Signature={SECRET}", id="signature of version 2"),
        pytest.param(f"next=https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3D{SECRET}", id="query in a query"),
        pytest.param(f"https://user:{SECRET.replace('/', '')}@proxy:3128/", id="user of a URL"),
        pytest.param(f"aws_secret_access_key = {SECRET}", id="credentials file"),
        pytest.param(f"AWS_SECRET_ACCESS_KEY='{SECRET}'", id="environment"),
        pytest.param(f"{{'SSECustomerKey': '{SECRET}'}}", id="argument of botocore"),
        pytest.param(f"Credentials(secret_key={SECRET!r})", id="repr"),
        pytest.param(f"password: {SECRET}", id="YAML"),
        pytest.param(f"Set-Cookie: session={SECRET}; Path=/", id="cookie"),
        pytest.param(f"sent bearer {SECRET} to it", id="bearer alone"),
    ],
)
def test_a_credential_is_known_by_what_it_comes_with(text: str) -> None:
    masked = redact(text)
    assert MASK in masked
    assert "hunter2" not in masked
    assert SECRET[-6:] not in masked


def test_a_service_accounts_token_is_known_by_its_form() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
    assert token not in redact(f"refused: {token}, says the server")


def test_a_private_key_is_known_by_its_first_line() -> None:
    text = "-----BEGIN RSA PRIVATE KEY-----\\nMIIEpAIBAAKCAQEA\\n-----END RSA PRIVATE KEY-----"
    assert "MIIE" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://models/gpt-4-weights/@current: a signal of warm/default/pod/uid was dropped",
        "the object store refused the signature of s3://bucket/tokenizer.json, or its token has expired",
        "s3://b/key=1/secretary/designs=2/tokens: nothing is there",
        "ExpiredToken: the provided token has expired",
        "https://b.s3.amazonaws.com/k?versionId=7 answered 503",
        "took 3.2 s, 4 of 5 ranges, user@host",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


def test_a_line_in_json_stays_json() -> None:
    line = json.dumps({"event": f'Authorization: "Bearer {SECRET}"\npassword: a"b\\c {PRESIGNED}', "n": 1})
    masked = json.loads(redact(line))
    assert masked["n"] == 1
    assert "hunter2" not in masked["event"]


def test_what_is_masked_is_not_masked_again() -> None:
    once = redact(f"{PRESIGNED} Authorization: Bearer {SECRET}")
    assert redact(once) == once


@pytest.mark.parametrize("wrap", [str, repr, json.dumps, lambda secret: json.dumps(json.dumps({"it": secret}))])
@pytest.mark.parametrize("secret", [SECRET, 'quo"ted\\secret', "sécret with spaces"])
def test_a_value_that_the_process_knows_is_masked_anywhere(secret: str, wrap: object) -> None:
    hide(secret)
    text = wrap(secret)  # type: ignore[operator]
    assert redact(f"it is {text}, as you see") != f"it is {text}, as you see"
    assert secret[:5] not in redact(f"it is {text}")


def test_nothing_and_what_is_too_short_is_not_hidden() -> None:
    hide(None, "", "secret")
    assert redact("a secret place") == "a secret place"


def test_the_latest_of_many_session_credentials_are_masked() -> None:
    for number in range(1000):
        hide(f"session-credential-{number:04}")
    assert redact("session-credential-0999") == MASK
    assert len(redaction._known) == 64


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("authorization", True),
        ("Proxy-Authorization", True),
        ("gs_secret_key", True),
        ("AWS_SESSION_TOKEN", True),
        ("password", True),
        ("credentials", True),
        ("event", False),
        ("pod", False),
        ("tokens", False),
        ("fetched_bytes", False),
        ("signal_name", False),
        ("workflow", False),
    ],
)
def test_a_field_is_secret_by_its_name(key: str, secret: bool) -> None:
    assert is_secret(key) is secret
