"""Parses what users write as a dataset, `s3://bucket/prefix` or `gs://bucket/prefix`, or refuses it with a reason.

Strict on purpose: the bucket and the prefix become directories on the node and parts of a request line, so an ambiguous
URI is refused here, by name. Does not percent-decode: a URI holds the key as S3 knows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kube_cache.errors import InvalidRequest
from kube_cache.names import CURRENT_LINK

SCHEMES: Final = ("s3", "gs")
CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_DATASETS: Final = 256
"""Of one Pod. Arbitrary, and more than anybody mounts; the API server bounds what an admission policy may compute."""
MAX_NAME_BYTES: Final = 255  # of a file or a folder, on ext4, XFS and every other file system that a node has

_BLANKS: Final = " \t\r\n"
_EXAMPLE: Final = "write it like s3://bucket/prefix"
_BUCKET: Final = {
    "s3": re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]"),
    "gs": re.compile(r"[a-z0-9](?:[a-z0-9._-]{1,220})[a-z0-9]"),
}
_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")
_MAX_KEY_BYTES: Final = 1024  # S3's and GCS's own limit for a key


@dataclass(frozen=True, slots=True)
class DatasetUri:
    """One dataset. `str()` gives the URI; `parse` takes it back.

    prefix: no leading slash. A trailing slash is kept: it says "the folder, not an object of that name".
    """

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> DatasetUri:
        """Parse one URI. Raises InvalidRequest that names the value, the reason and the remedy."""
        if "," in text:
            raise InvalidRequest(f"dataset {text!r} holds a comma, which separates datasets; name one dataset")
        return _parse(text)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"


def parse_datasets(annotation: str) -> tuple[DatasetUri, ...]:
    """Parse the comma-separated URIs of an annotation, in its order. Raises InvalidRequest, as `DatasetUri.parse`."""
    if not annotation.strip():
        raise InvalidRequest(f"the dataset is empty; {_EXAMPLE}")
    datasets: dict[DatasetUri, DatasetUri] = {}
    for item in annotation.split(","):
        if not item.strip(_BLANKS):
            raise InvalidRequest(f"an empty dataset between the commas of {annotation!r}; remove the extra comma")
        hint = "; a comma separates datasets and cannot be part of one" if "," in annotation else ""
        dataset = _parse(item, no_scheme_hint=hint)
        place = DatasetUri(dataset.scheme, dataset.bucket, dataset.prefix.rstrip("/"))
        if place in datasets:
            raise InvalidRequest(f"dataset {str(dataset)!r} is named twice in {annotation!r}; name it once")
        datasets[place] = dataset
    if len(datasets) > MAX_DATASETS:
        raise InvalidRequest(
            f"{len(datasets)} datasets are named; name at most {MAX_DATASETS}, or the folder above them"
        )
    return tuple(datasets.values())


def _parse(item: str, *, no_scheme_hint: str = "") -> DatasetUri:
    text = item.strip(_BLANKS)
    if CONTROL_CHARACTER.search(text):
        raise InvalidRequest(f"dataset {text!r} holds a control character; remove it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidRequest(f"dataset {text!r} has no scheme; {_EXAMPLE}{no_scheme_hint}")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise InvalidRequest(f"dataset {text!r} has the unknown scheme {scheme!r}; known are s3:// and gs://")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InvalidRequest(f"dataset {text!r} names no bucket; {_EXAMPLE.replace('s3', scheme)}")
    _check_bucket(scheme, bucket, text)
    _check_prefix(prefix, text)
    return DatasetUri(scheme, bucket, prefix)


def _check_bucket(scheme: str, bucket: str, text: str) -> None:
    if not _BUCKET[scheme].fullmatch(bucket) or ".." in bucket or _IPV4.fullmatch(bucket):
        raise InvalidRequest(
            f"dataset {text!r}: {bucket!r} cannot be a bucket's name; names are 3 to 63 lower-case letters, digits,"
            " dots and hyphens, and no address"
        )


def _check_prefix(prefix: str, text: str) -> None:
    try:
        encoded = prefix.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"dataset {text!r} holds a lone surrogate; write the key as valid UTF-8") from None
    if len(encoded) > _MAX_KEY_BYTES:
        raise InvalidRequest(
            f"dataset {text[:80]!r}…: the prefix has {len(encoded)} bytes; a key has at most {_MAX_KEY_BYTES}"
        )
    segments = prefix.split("/")
    if segments[-1] == "":
        segments.pop()
    for segment in segments:
        if segment == "":
            raise InvalidRequest(f"dataset {text!r} has an empty folder name ('//'); write single slashes")
        if segment in {".", ".."}:
            raise InvalidRequest(f"dataset {text!r} has the folder {segment!r}; write the key without it")
        if segment == CURRENT_LINK:
            raise InvalidRequest(
                f"dataset {text!r} has a folder {CURRENT_LINK!r}, a name that the cache uses; rename it"
            )
        if len(segment.encode()) > MAX_NAME_BYTES:
            raise InvalidRequest(
                f"dataset {text!r} has a folder name longer than {MAX_NAME_BYTES} bytes; no disk can hold it"
            )
