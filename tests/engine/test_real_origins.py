"""A real S3 server behind nginx as it is met: whatever becomes of ETags and lengths, bytes come, or a true reason."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator

import pytest

from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import AccessDenied, SourceChanged
from kube_cache.origin.listing import list_dataset
from tests.engine.fetcher import Fetcher
from tests.engine.nginx import MISSING, VARIANTS, Nginx
from tests.engine.objects import MIB
from tools.stack.buckets import Bucket
from tools.stack.s3 import READER, S3Server

SIGNED_HEADERS_CHANGED = ("cache that drops Range and If-Match", "slices")
WORKING = [name for name in VARIANTS if name not in SIGNED_HEADERS_CHANGED]
CONTENT = {"small": random.Random(1).randbytes(70_001), "large": random.Random(2).randbytes(17 * MIB + 5)}


@pytest.fixture(scope="module")
def nginx(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    try:
        nginx = Nginx(tmp_path_factory.mktemp("nginx"), s3_server.endpoint)
    except FileNotFoundError:
        pytest.fail(MISSING)
    yield nginx
    nginx.stop()


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[Bucket]:
    bucket = Bucket(s3_server, f"proxy-{uuid.uuid4().hex[:10]}")
    for name, data in CONTENT.items():
        bucket.put(f"set/{name}", data)
    yield bucket
    bucket.delete()


@pytest.fixture
def reader(nginx: Nginx, make_fetcher: Callable[..., Fetcher]) -> Callable[[str], Fetcher]:
    return lambda variant: make_fetcher(
        nginx.endpoint(variant), access_key=READER.access_key, secret_key=READER.secret_key
    )


def fetch(reader: Fetcher, place: Bucket) -> None:
    uri = DatasetUri.parse(place.uri("set/"))
    reader.fetch(list(list_dataset(reader.origins.of("s3"), uri).objects))


@pytest.mark.parametrize("variant", WORKING)
def test_a_proxy_that_changes_what_is_told_does_not_make_an_object_replaced(
    place: Bucket, reader: Callable[[str], Fetcher], variant: str
) -> None:
    fetcher = reader(variant)
    fetch(fetcher, place)
    for name, data in CONTENT.items():
        assert fetcher.content(f"set/{name}") == data
        assert fetcher.done[f"set/{name}"].verified is Verified.FULL_OBJECT


@pytest.mark.parametrize("variant", WORKING)
@pytest.mark.parametrize("name", CONTENT)
def test_an_object_that_was_replaced_is_noticed_behind_every_proxy(
    place: Bucket, reader: Callable[[str], Fetcher], variant: str, name: str
) -> None:
    fetcher = reader(variant)
    uri = DatasetUri.parse(place.uri("set/"))
    objects = list_dataset(fetcher.origins.of("s3"), uri).objects
    place.put(f"set/{name}", bytes(len(CONTENT[name])))
    with pytest.raises(SourceChanged, match=f"set/{name}"):
        fetcher.fetch([remote for remote in objects if remote.path == name])


@pytest.mark.parametrize("variant", SIGNED_HEADERS_CHANGED)
def test_a_proxy_that_breaks_the_signature_is_named_as_a_possible_reason(
    place: Bucket, reader: Callable[[str], Fetcher], variant: str
) -> None:
    with pytest.raises(AccessDenied, match=r"a proxy (changes requests on their way|that caches or slices)"):
        fetch(reader(variant), place)


def test_one_snapshot_has_one_digest_behind_every_proxy(place: Bucket, reader: Callable[[str], Fetcher]) -> None:
    uri = DatasetUri.parse(place.uri("set/"))
    digests = {list_dataset(reader(variant).origins.of("s3"), uri).digest for variant in WORKING}
    assert len(digests) == 1
