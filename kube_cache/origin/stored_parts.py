"""Finds out in which parts an object was uploaded: a composite checksum can be proven only part by part.

GetObjectAttributes tells sizes and checksums, but needs a permission of its own and is unknown to many servers; a HEAD
of each part works nearly everywhere and tells sizes only. Without either, the object is fetched all the same and counts
as less well verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from kube_cache.dataset.checksums import decode_base64
from kube_cache.dataset.source import StoredPart

_MAX_HEADS: Final = 64  # arbitrary: a second or so of HEADs, one after the other
_THROTTLED: Final = frozenset({429, 503})


def stored_parts(client: Any, address: Mapping[str, Any], size: int, count: int) -> list[StoredPart]:
    """Return the `count` parts of an object of `size` bytes, in order; [] when the object store does not tell.

    address: botocore's arguments that name the object. Raises botocore's errors.
    """
    return _from_attributes(client, address) or _from_heads(client, address, size, count)


def _from_attributes(client: Any, address: Mapping[str, Any]) -> list[StoredPart]:
    arguments = {**address, "ObjectAttributes": ["ObjectParts"], "MaxParts": 1000}
    parts: list[StoredPart] = []
    while True:
        try:
            page = client.get_object_attributes(**arguments).get("ObjectParts", {})
        except ClientError as error:
            if _status(error) in _THROTTLED:
                raise
            return []  # not offered, not permitted, or, by Garage, a 500: parts are asked for in the other way
        parts += [_part(part) for part in page.get("Parts", ())]
        if not page.get("IsTruncated"):
            return parts
        arguments["PartNumberMarker"] = page["NextPartNumberMarker"]


def _from_heads(client: Any, address: Mapping[str, Any], size: int, count: int) -> list[StoredPart]:
    """Return the parts without checksums.

    Of more than `_MAX_HEADS` parts only the first, a middle and the last one are asked for: if these three and the sum
    agree, all but the last are as large as the first.
    """

    def size_of(number: int) -> int:
        return int(client.head_object(PartNumber=number, **address)["ContentLength"])

    try:
        if count <= _MAX_HEADS:
            sizes = [size_of(number) for number in range(1, count + 1)]
        else:
            sizes = [size_of(1)] * (count - 1)
            sizes.append(size - sum(sizes))
            if size_of(count // 2) != sizes[0] or size_of(count) != sizes[-1]:
                return []
    except ClientError as error:
        if _status(error) >= 500:
            raise  # for the caller, who asks again a few times
        return []
    return [StoredPart(part_size, b"") for part_size in sizes] if sum(sizes) == size else []


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _part(part: Mapping[str, Any]) -> StoredPart:
    checksums = (value for name, value in part.items() if name.startswith("Checksum"))
    return StoredPart(int(part["Size"]), decode_base64(next(checksums, "")))
