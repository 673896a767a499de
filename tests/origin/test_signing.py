"""Each signature equals botocore's."""

from __future__ import annotations

import datetime as dt

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.origin.signing import Keys, Signer

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def botocores(keys: Keys, region: str, url: str, headers: dict[str, str], now: float) -> dict[str, str]:
    moment = dt.datetime.fromtimestamp(now, dt.UTC).replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(auth, "get_current_datetime", lambda: moment)
        request = AWSRequest("GET", url, dict(headers))
        auth.S3SigV4Auth(ReadOnlyCredentials(keys.access, keys.secret, keys.token or None), "s3", region).add_auth(
            request
        )
    return {name.lower(): value for name, value in request.headers.items()}


HEADERS = {
    "a range": {"Range": "bytes=0-8388607", "If-Match": '"d41d8cd98f00b204e9800998ecf8427e-12"'},
    "a whole object": {"If-Match": '"abc"', "x-amz-checksum-mode": "ENABLED"},
    "nothing": {},
    "spaces": {"If-Match": '"a  b"  ', "x-amz-request-payer": "requester"},
    "a customer's key": {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": "QUJD",
        "x-amz-server-side-encryption-customer-key-MD5": "kAFQmDzST7DWlj99KOF/cg==",
    },
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEBY/+=="])
@pytest.mark.parametrize("query", ["", "versionId=3sL4kqtJlcpXroDTDmJ%2BrmSpXd3dIbrHY", "generation=1360887759327000"])
@pytest.mark.parametrize("origin", ["https://models.s3.eu-central-1.amazonaws.com", "http://127.0.0.1:9000/models"])
def test_it_signs_as_botocore_does(headers: dict[str, str], token: str, query: str, origin: str) -> None:
    keys = Keys("AKIDEXAMPLE", SECRET, token)
    path = "/" + origin.partition("://")[2].partition("/")[2]
    path = path.rstrip("/") + "/gpt/shard%20%2B1%C3%A9~x.bin"
    host = origin.split("/")[2]
    url = f"{origin}/gpt/shard%20%2B1%C3%A9~x.bin" + (f"?{query}" if query else "")
    ours = Signer("eu-central-1").sign(keys, host, path, query, headers, 1_764_000_000)
    theirs = botocores(keys, "eu-central-1", url, headers, 1_764_000_000)
    assert {name.lower(): value for name, value in ours.items()} == theirs


@given(now=st.lists(st.floats(1.7e9, 1.9e9), min_size=2, max_size=5), secrets=st.lists(st.text("ab", min_size=1)))
def test_the_key_follows_the_day_and_the_credentials(now: list[float], secrets: list[str]) -> None:
    signer = Signer("us-east-1")
    for moment in now:
        for secret in [SECRET, *secrets]:
            keys = Keys("AKIDEXAMPLE", secret)
            ours = signer.sign(keys, "h", "/b/k", "", {}, moment)
            theirs = botocores(keys, "us-east-1", "http://h/b/k", {}, int(moment))
            assert ours["Authorization"] == theirs["authorization"]
