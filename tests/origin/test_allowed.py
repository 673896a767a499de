"""The allow-list of buckets: what a pattern covers, who is refused, and what the refusal says."""

from __future__ import annotations

import logging

import pytest

from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import BucketNotAllowed
from kube_cache.origin.allowed import AllowedBuckets, parse_patterns
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings


@pytest.mark.parametrize(
    ("patterns", "uri", "allowed"),
    [
        ("", "s3://anything/at/all", True),
        ("s3://models", "s3://models/llama/70b", True),
        ("s3://models", "s3://models", True),
        ("s3://models", "s3://models-private/x", False),
        ("s3://models", "gs://models/x", False),
        ("s3://team-*/data/", "s3://team-a/data/set", True),
        ("s3://team-*/data/", "s3://team-a/data", True),
        ("s3://team-*/data/", "s3://team-a/database/set", False),
        ("s3://team-*/data/", "s3://team-a/other", False),
        ("s3://team-*/data/", "s3://team-a", False),
        ("s3://team-*", "s3://team-/", True),
        ("s3://*/public", "s3://any/public/x", True),
        ("s3://*/public", "s3://any/folder/public/x", False),
        ("s3://a.b", "s3://axb/x", False),
        ("s3://models, gs://models", "gs://models/x", True),
        ('["s3://models", "gs://models"]', "gs://models/x", True),
    ],
)
def test_a_pattern_covers_a_bucket_or_a_folder_and_what_is_under_it(patterns: str, uri: str, allowed: bool) -> None:
    dataset = DatasetUri.parse(uri) if uri != "s3://team-/" else DatasetUri("s3", "team-", "")
    check = AllowedBuckets(parse_patterns(patterns)).check
    if allowed:
        check(dataset.scheme, dataset.bucket, dataset.prefix)
    else:
        with pytest.raises(BucketNotAllowed):
            check(dataset.scheme, dataset.bucket, dataset.prefix)


@pytest.mark.parametrize("text", ["models", "s3:/models", "s3://", "https://x", "s3://a b", "[1]", "[", '{"a": 1}'])
def test_a_pattern_that_cannot_be_understood_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError):
        OriginSettings(allowed_buckets=text)


def test_a_refusal_comes_before_any_request_and_names_bucket_setting_and_who_may_change_it() -> None:
    origins = Origins(OriginSettings(allowed_buckets="s3://models,s3://team-*/data", anonymous=True))
    uri = DatasetUri.parse("s3://payroll/2026")
    with pytest.raises(BucketNotAllowed) as caught:
        list_dataset(origins.of("s3"), uri)
    origins.close()
    for words in (
        "s3://payroll/2026",
        "'payroll'",
        "KUBE_CACHE_ORIGIN__ALLOWED_BUCKETS",
        "s3://models, s3://team-*/data",
        "whoever runs Kube-Cache",
    ):
        assert words in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize(("patterns", "words"), [("", "every bucket"), ("s3://models", "s3://models")])
def test_the_start_says_once_what_is_allowed(patterns: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kube_cache.origin"):
        Origins(OriginSettings(allowed_buckets=patterns)).close()
    (record,) = caplog.records
    assert words in record.getMessage()
