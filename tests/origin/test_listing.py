"""The listing of a dataset: prefix rules, refused keys, and a digest that two different lists never share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import AmbiguousDataset, DatasetNotFound, OriginUnsuitable, UnsafeKey
from kube_cache.origin.listing import digest, list_dataset
from kube_cache.store.layout import object_id


class Pages:
    """An origin that lists the given keys as S3 does: ordered by their UTF-8 bytes, `size` keys a page."""

    scheme = "s3"

    def __init__(self, keys: dict[str, int], *, size: int = 2) -> None:
        self._keys = sorted(keys.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass"))
        self._size = size
        self.pages = 0

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        objects = [
            RemoteObject("s3", bucket, key, "", size, f'"{key}"') for key, size in self._keys if key.startswith(prefix)
        ]
        for start in range(0, len(objects) or 1, self._size):
            self.pages += 1
            yield objects[start : start + self._size]


def listed(uri: str, *keys: str, sizes: dict[str, int] | None = None) -> Manifest:
    return list_dataset(Pages({**dict.fromkeys(keys, 1), **(sizes or {})}), DatasetUri.parse(uri))


def paths(manifest: Manifest) -> list[str]:
    return [remote.path for remote in manifest.objects]


def test_a_prefix_is_a_folder_not_a_beginning_of_letters() -> None:
    manifest = listed("s3://models/gpt", "gpt/a", "gpt/b/c", "gpt-4/a", "gpt2", "gpt.txt", "other")
    assert paths(manifest) == ["a", "b/c"]
    assert manifest.total_bytes == 2
    assert str(manifest.uri) == "s3://models/gpt"


def test_an_object_is_a_dataset_of_one_file() -> None:
    assert paths(listed("s3://models/a/weights.bin", "a/weights.bin", "a/weights.bin.md5", "a/x")) == ["weights.bin"]


def test_a_whole_bucket() -> None:
    assert paths(listed("s3://models", "a", "b/c")) == ["a", "b/c"]


def test_both_object_and_folder_name_the_fix() -> None:
    with pytest.raises(AmbiguousDataset, match=r"write s3://models/gpt/ for the folder"):
        listed("s3://models/gpt", "gpt", "gpt/a")


def test_a_trailing_slash_means_the_folder() -> None:
    assert paths(listed("s3://models/gpt/", "gpt", "gpt/a")) == ["a"]


def test_empty_folder_markers_are_no_files() -> None:
    assert paths(listed("s3://models/gpt", "gpt/a", sizes={"gpt/": 0, "gpt/sub/": 0})) == ["a"]


@pytest.mark.parametrize(
    ("uri", "keys", "words"),
    [
        pytest.param("s3://models/gpt", ["other"], "nothing is at s3://models/gpt or under it", id="nothing"),
        pytest.param("s3://models/gpt", ["gpt-4/a"], "only begin with the same letters", id="near misses"),
        pytest.param("s3://models", [], "the bucket models is empty", id="empty bucket"),
    ],
)
def test_nothing_there(uri: str, keys: list[str], words: str) -> None:
    with pytest.raises(DatasetNotFound, match=words):
        listed(uri, *keys)


def test_only_a_marker_is_nothing() -> None:
    with pytest.raises(DatasetNotFound, match="an empty folder"):
        listed("s3://models/gpt", sizes={"gpt/": 0})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        pytest.param("d/../../etc/passwd", "would leave the dataset's directory", id="dot dot"),
        pytest.param("d/./a", "the folder '.'", id="dot"),
        pytest.param("d//a", "empty folder or file name", id="double slash"),
        pytest.param("d//", "empty folder or file name", id="slash at the end of a non-empty object"),
        pytest.param("d/a\nb", "control character", id="newline"),
        pytest.param("d/a\x85b", "control character", id="C1 control"),
        pytest.param("d/" + "é" * 128, "longer than 255 bytes", id="256 bytes in 128 letters"),
    ],
)
def test_unsafe_keys_are_refused_by_name(key: str, words: str) -> None:
    with pytest.raises(UnsafeKey) as caught:
        listed("s3://models/d", key)
    assert words in caught.value.message
    assert repr(key) in caught.value.message


def test_a_name_of_255_bytes_is_fine() -> None:
    assert paths(listed("s3://models/d", "d/" + "x" * 255)) == ["x" * 255]


def test_a_file_that_is_also_a_folder() -> None:
    with pytest.raises(UnsafeKey, match=r"'d/a/b' in .* is a file, and 'd/a/b/c/e' makes a folder of it"):
        listed("s3://models/d", "d/a/b", "d/a/b/c/e")


def test_reading_stops_after_the_folder_and_jumps_over_neighbours() -> None:
    crowd = {f"gpt-{number:03}": 1 for number in range(500)} | {f"gpt_{number:03}": 1 for number in range(500)}
    pages = Pages({**crowd, "gpt/a": 1, "gpt/b": 1}, size=10)
    assert paths(list_dataset(pages, DatasetUri("s3", "models", "gpt"))) == ["a", "b"]
    assert pages.pages == 2


def test_on_page_is_called_for_each_page_and_may_stop() -> None:
    dataset = DatasetUri("s3", "models", "d")
    seen: list[int] = []
    list_dataset(Pages({f"d/{number}": 1 for number in range(5)}), dataset, on_page=seen.append)
    assert seen == [2, 4, 5]

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list_dataset(Pages({"d/1": 1}), dataset, on_page=stop)


HERE = DatasetUri("s3", "models", "d")


def record(path: str = "a", key: str = "d/a", size: int = 1, etag: str = '"e"') -> RemoteObject:
    return RemoteObject("s3", "models", key, path, size, etag)


def test_the_digest_is_of_the_set_not_of_its_order() -> None:
    first, second = record(), record("b", "d/b")
    assert digest(HERE, [first, second]) == digest(HERE, [second, first])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([record(path="b")], id="path"),
        pytest.param([record(key="d/b")], id="key"),
        pytest.param([record(size=2)], id="size"),
        pytest.param([record(etag='"f"')], id="etag"),
        pytest.param([record(path="ad", key="/a")], id="a letter moved from one field to the next"),
        pytest.param([record(), record("b")], id="one more"),
        pytest.param([], id="none"),
    ],
)
def test_any_difference_changes_the_digest(other: list[RemoteObject]) -> None:
    assert digest(HERE, [record()]) != digest(HERE, other)


def test_equal_objects_elsewhere_are_another_snapshot() -> None:
    """Pods mount them from another path: taking one for the other would release a Pod to a path that is not there."""
    assert digest(HERE, [record()]) != digest(DatasetUri("s3", "other", "d"), [record()])
    assert digest(HERE, [record()]) == digest(DatasetUri("s3", "models", "d/"), [record()])


def test_the_digest_is_pinned() -> None:
    """The digest names directories on disks and workflows in Temporal: changing it is a migration."""
    assert digest(HERE, [record()]) == "87ed75a8a56ace0641417bb10fc7028edb152538aece0e1645ac8eb9a035e3cc"


class WithoutEtags:
    """An origin that lists objects without ETags, with the given time of their last change."""

    scheme = "s3"

    def __init__(self, modified: int) -> None:
        self._modified = modified

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        yield [RemoteObject("s3", bucket, f"{prefix}/a", "", 1, "", None, self._modified)]


def test_without_an_etag_the_time_of_the_last_change_pins_digest_and_object() -> None:
    uri = DatasetUri.parse("s3://models/d")
    one, same, other = (list_dataset(WithoutEtags(at), uri) for at in (1000, 1000, 2000))
    assert one.digest == same.digest != other.digest
    assert object_id(one.objects[0]) == object_id(same.objects[0]) != object_id(other.objects[0])


def test_an_object_that_is_listed_with_neither_is_refused_by_name() -> None:
    with pytest.raises(OriginUnsuitable, match=r"s3://models/d/a: .*neither ETag nor LastModified"):
        list_dataset(WithoutEtags(0), DatasetUri.parse("s3://models/d"))
