"""Which dataset URIs are accepted, and the message that refuses the others."""

from __future__ import annotations

import pytest

from kube_cache.dataset.uri import DatasetUri, parse_datasets
from kube_cache.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "uris"),
    [
        pytest.param("s3://models/gpt-4-weights", ["s3://models/gpt-4-weights"], id="one"),
        pytest.param(
            "  S3://models/a ,gs://other/b/ ", ["s3://models/a", "gs://other/b/"], id="two, spaces, upper case"
        ),
        pytest.param("s3://models", ["s3://models/"], id="a whole bucket"),
        pytest.param("s3://models/a b/ü#?%2F", ["s3://models/a b/ü#?%2F"], id="nothing is decoded"),
        pytest.param("gs://under_scored/x", ["gs://under_scored/x"], id="gcs allows underscores"),
    ],
)
def test_understood(written: str, uris: list[str]) -> None:
    assert [str(uri) for uri in parse_datasets(written)] == uris


def test_a_uri_has_its_parts() -> None:
    uri = DatasetUri.parse("s3://models/a/b/")
    assert uri == DatasetUri("s3", "models", "a/b/")
    assert str(uri) == "s3://models/a/b/"


def test_one_uri_is_one_dataset() -> None:
    with pytest.raises(InvalidRequest, match="a comma, which separates datasets"):
        DatasetUri.parse("s3://models/a,s3://models/b")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        pytest.param("", "the dataset is empty; write it like s3://", id="empty"),
        pytest.param(" \n", "the dataset is empty", id="blank"),
        pytest.param("s3://a-bucket/x,,", "remove the extra comma", id="empty item"),
        pytest.param("models/gpt", "'models/gpt' has no scheme", id="no scheme"),
        pytest.param("s3://models/a,b", "a comma separates datasets", id="comma in a key"),
        pytest.param("http://models/a", "unknown scheme 'http'", id="unknown scheme"),
        pytest.param("s3:///a", "names no bucket", id="no bucket"),
        pytest.param("s3://Models/a", "'Models' cannot be a bucket's name", id="upper-case bucket"),
        pytest.param("s3://ab/a", "'ab' cannot be a bucket's name", id="short bucket"),
        pytest.param("s3://a..b/a", "cannot be a bucket's name", id="dots in bucket"),
        pytest.param("s3://169.254.169.254/a", "no address", id="an address"),
        pytest.param("s3://user@models/a", "cannot be a bucket's name", id="user in bucket"),
        pytest.param("s3://models:80/a", "cannot be a bucket's name", id="port in bucket"),
        pytest.param("s3://models/a\x00b", "control character", id="NUL"),
        pytest.param("s3://models/a\r\nHost: x", "control character", id="header injection"),
        pytest.param("s3://models/a/../b", "has the folder '..'", id="dot dot"),
        pytest.param("s3://models/./b", "has the folder '.'", id="dot"),
        pytest.param("s3://models//b", "empty folder name", id="double slash"),
        pytest.param("s3://models/a//", "empty folder name", id="double slash at the end"),
        pytest.param("s3://models/@current/x", "a name that the cache uses", id="the store's link"),
        pytest.param("s3://models/" + "x" * 256, "longer than 255 bytes", id="long name"),
        pytest.param("s3://models/" + "x/" * 600, "a key has at most 1024", id="long prefix"),
        pytest.param("s3://models/\ud800", "lone surrogate", id="surrogate"),
        pytest.param(",".join(f"s3://models/{n}" for n in range(257)), "name at most 256", id="too many"),
        pytest.param("s3://models/a,s3://models/a/", "named twice", id="duplicate but for the slash"),
    ],
)
def test_refused_with_value_and_reason(written: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_datasets(written)
    assert words in caught.value.message
