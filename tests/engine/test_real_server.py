"""The engine against a real S3 server: every byte, every kind of checksum, and what the server itself refuses."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import AccessDenied, ChecksumMismatch, DatasetNotFound, SourceChanged
from kube_cache.origin.listing import list_dataset
from tests.engine.fetcher import Fetcher
from tests.engine.objects import MIB
from tools.stack.buckets import Bucket
from tools.stack.s3 import READER, S3Server


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[Bucket]:
    bucket = Bucket(s3_server, f"engine-{uuid.uuid4().hex[:10]}")
    yield bucket
    bucket.delete()


@pytest.fixture
def reader(make_fetcher: Callable[..., Fetcher], s3_server: S3Server) -> Fetcher:
    return make_fetcher(s3_server.endpoint, access_key=READER.access_key, secret_key=READER.secret_key)


def listed(reader: Fetcher, bucket: Bucket, prefix: str) -> Manifest:
    uri = DatasetUri.parse(bucket.uri(prefix))
    return list_dataset(reader.origins.of("s3"), uri)


def test_uneven_sizes_come_whole_and_verified(place: Bucket, reader: Fetcher) -> None:
    sizes = {
        "empty": 0,
        "one": 1,
        "page": 4096,
        "odd": 4097,
        "small": 8 * MIB,
        "large": 8 * MIB + 1,
        "larger": 37 * MIB + 4321,
    }
    content = place.fill("set", sizes)
    manifest = listed(reader, place, "set")
    reader.fetch(list(manifest.objects))
    for name, data in content.items():
        done = reader.done[f"set/{name}"]
        assert reader.content(f"set/{name}") == data, name
        assert done.verified is (Verified.FULL_OBJECT if data else Verified.TRANSPORT_ONLY), name
        assert done.fetched_bytes == len(data)
    assert reader.progress[-1].done_bytes == reader.progress[-1].total_bytes == sum(sizes.values())


def test_many_small_objects(place: Bucket, reader: Fetcher) -> None:
    content = place.fill("many", [1000 + number for number in range(300)])
    manifest = listed(reader, place, "many")
    reader.fetch(list(manifest.objects))
    assert {key.removeprefix("many/"): reader.content(key) for key in reader.done} == content


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32"])
def test_each_crc_of_s3(place: Bucket, reader: Fetcher, algorithm: str) -> None:
    data = random.Random(1).randbytes(20 * MIB + 5)
    place.put("object", data, checksum=algorithm)
    reader.fetch(list(listed(reader, place, "object").objects))
    assert reader.content("object") == data
    assert reader.done["object"].verified is Verified.FULL_OBJECT


def test_an_object_without_a_usable_checksum_is_not_called_verified(place: Bucket, reader: Fetcher) -> None:
    data = random.Random(1).randbytes(9 * MIB)
    place.put("object", data, checksum="SHA256")
    reader.fetch(list(listed(reader, place, "object").objects))
    assert reader.content("object") == data
    assert reader.done["object"].verified is Verified.TRANSPORT_ONLY


def test_by_option_a_sha256_is_checked_by_reading_again(
    place: Bucket, make_fetcher: Callable[..., Fetcher], s3_server: S3Server
) -> None:
    reader = make_fetcher(
        s3_server.endpoint, access_key=READER.access_key, secret_key=READER.secret_key, verify_hashes=True
    )
    data = random.Random(1).randbytes(9 * MIB)
    place.put("object", data, checksum="SHA256")
    reader.fetch(list(listed(reader, place, "object").objects))
    assert reader.done["object"].verified is Verified.FULL_OBJECT


def upload_in_parts(bucket: Bucket, key: str, data: bytes, size: int, algorithm: str, kind: str) -> None:
    client = bucket.server.client()
    upload = client.create_multipart_upload(
        Bucket=bucket.name,
        Key=key,
        ChecksumAlgorithm=algorithm,
        ChecksumType=kind,  # type: ignore[arg-type]
    )["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(data), size), 1):
        answer = client.upload_part(
            Bucket=bucket.name,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=data[start : start + size],
            ChecksumAlgorithm=algorithm,  # type: ignore[arg-type]
        )
        name = f"Checksum{algorithm}"
        parts.append({"PartNumber": number, "ETag": answer["ETag"], name: answer[name]})  # type: ignore[literal-required]
    client.complete_multipart_upload(
        Bucket=bucket.name,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": parts},
        ChecksumType=kind,  # type: ignore[arg-type, typeddict-item]
    )


@pytest.mark.parametrize("kind", ["FULL_OBJECT", "COMPOSITE"])
def test_multipart_checksums(place: Bucket, reader: Fetcher, kind: str) -> None:
    data = random.Random(2).randbytes(13 * MIB + 77)
    upload_in_parts(place, "object", data, 5 * MIB + 3, "CRC32C", kind)
    reader.fetch(list(listed(reader, place, "object").objects))
    assert reader.content("object") == data
    assert reader.done["object"].verified in {Verified.FULL_OBJECT, Verified.COMPOSITE}


def test_a_damaged_object_is_fetched_twice_and_named(place: Bucket, reader: Fetcher, s3_server: S3Server) -> None:
    place.put("object", random.Random(1).randbytes(20 * MIB))
    manifest = listed(reader, place, "object")
    s3_server.damage(place.name, "object", 9 * MIB)
    with pytest.raises(
        ChecksumMismatch, match=r"object: all 3 ranges .* CRC64NVME is \S+ but the object store declares \S+"
    ):
        reader.fetch(list(manifest.objects))
    assert not reader.done


def test_an_object_replaced_since_it_was_listed(place: Bucket, reader: Fetcher) -> None:
    for key, size in (("large", 20 * MIB), ("small", 1000)):
        place.put(key, bytes(size))
        manifest = listed(reader, place, key)
        place.put(key, b"x" * size)
        with pytest.raises(SourceChanged, match=key):
            reader.fetch(list(manifest.objects))


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_an_object_removed_since_it_was_listed(place: Bucket, reader: Fetcher, size: int) -> None:
    place.put("object", bytes(size))
    manifest = listed(reader, place, "object")
    place.remove("object")
    with pytest.raises(SourceChanged, match="object"):
        reader.fetch(list(manifest.objects))


def test_access_denied_names_the_remedy(place: Bucket, reader: Fetcher, s3_server: S3Server) -> None:
    place.put("object", bytes(1000))
    manifest = listed(reader, place, "object")
    s3_server.revoke(place.name)
    with pytest.raises(AccessDenied, match="grant s3:ListBucket"):
        reader.fetch(list(manifest.objects))
    with pytest.raises(AccessDenied, match="grant s3:ListBucket"):
        listed(reader, place, "object")


def test_no_such_bucket(reader: Fetcher) -> None:
    uri = DatasetUri.parse("s3://no-such-bucket-anywhere/x")
    with pytest.raises(DatasetNotFound, match="the bucket does not exist"):
        list_dataset(reader.origins.of("s3"), uri)


def test_a_versioned_object_is_fetched_as_it_was_pinned(s3_server: S3Server, reader: Fetcher) -> None:
    bucket = Bucket(s3_server, f"engine-{uuid.uuid4().hex[:10]}", versioned=True)
    data = random.Random(3).randbytes(20 * MIB)
    bucket.put("object", data)
    reader.fetch(list(listed(reader, bucket, "object").objects))
    assert reader.content("object") == data
