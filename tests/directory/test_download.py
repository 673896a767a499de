"""A dataset in a plain directory: fetched once, each file whole, and nothing touched that is not of the dataset."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.directory.download import FOLDER, DirectoryResult, download
from kube_cache.errors import Cancelled, InsufficientDisk, StoreConflict, UnsafeKey
from tests.store.fakes import DictEngine, Source

FILES = {"a.bin": b"a" * 2048, "sub/b.bin": b"b" * 100, "sub/deep/c": b"c", "empty": b""}
SIZE = sum(map(len, FILES.values()))


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = Source()
        self.engine = DictEngine(self.source)

    def fetch(self, files: dict[str, bytes], *, prefix: str = "gpt", reread: bool = False) -> DirectoryResult:
        return download(self.directory, self.manifest(files, prefix), self.engine, reread=reread)

    def manifest(self, files: dict[str, bytes], prefix: str = "gpt") -> Manifest:
        return self.source.dataset(prefix, files)

    def content(self) -> dict[str, bytes]:
        paths = (path for path in self.directory.rglob("*") if path.is_file() and FOLDER not in path.parts)
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in paths}

    def left(self) -> set[str]:
        return {path.name for path in (self.directory / FOLDER).iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


def test_the_directory_holds_the_dataset_and_little_else(place: Place) -> None:
    result = place.fetch(FILES)
    assert place.content() == FILES
    assert place.left() == {"record", "lock"}
    assert (result.files, result.bytes, result.fetched_bytes, result.present_bytes) == (4, SIZE, SIZE, 0)
    assert result.verified == "full-object"


def test_a_second_fetch_fetches_nothing(place: Place) -> None:
    place.fetch(FILES)
    again = place.fetch(FILES)
    assert place.engine.total == SIZE
    assert (again.fetched_bytes, again.present_bytes) == (0, SIZE)


def test_files_have_the_mode_that_a_program_would_give_them(place: Place) -> None:
    before = os.umask(0o027)
    try:
        place.fetch(FILES)
    finally:
        os.umask(before)
    assert (place.directory / "a.bin").stat().st_mode & 0o777 == 0o640


def test_what_landed_before_an_end_is_not_fetched_again(place: Place) -> None:
    place.engine.hold = threading.Event()
    with pytest.raises(Cancelled):
        download(place.directory, place.manifest(FILES), place.engine, cancelled=place.engine.reached.is_set)
    landed = place.engine.total
    assert 0 < landed < SIZE
    place.engine.hold.set()
    result = place.fetch(FILES)
    assert place.content() == FILES
    assert place.engine.total == SIZE
    assert result.present_bytes == landed


@pytest.mark.parametrize("how", ["changed", "replaced", "removed"])
def test_a_file_that_is_not_what_was_fetched_is_fetched_again(place: Place, how: str) -> None:
    place.fetch(FILES)
    path = place.directory / "a.bin"
    if how == "changed":
        path.write_bytes(b"x" * 2048)
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(FILES["a.bin"])
    assert place.fetch(FILES).fetched_bytes == 2048
    assert place.content() == FILES


def test_bytes_that_the_disk_lost_are_found_when_it_is_read_again(place: Place) -> None:
    place.fetch(FILES)
    path = place.directory / "a.bin"
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert place.fetch(FILES).fetched_bytes == 0, "a look at the file does not show it"
    assert place.fetch(FILES, reread=True).fetched_bytes == 2048
    assert place.content() == FILES


def test_a_new_version_replaces_and_removes_what_the_former_had(place: Place) -> None:
    place.fetch(FILES)
    (place.directory / "notes.txt").write_text("mine")
    newer = {"a.bin": b"A" * 100, "sub/b.bin": FILES["sub/b.bin"], "empty/now": b"a folder"}
    result = place.fetch(newer)
    assert place.content() == {**newer, "notes.txt": b"mine"}
    assert result.removed_files == 2
    assert not (place.directory / "sub" / "deep").exists()


def test_a_file_of_the_former_version_that_somebody_changed_stays(place: Place) -> None:
    place.fetch(FILES)
    (place.directory / "sub/deep/c").write_text("mine now")
    assert place.fetch({"a.bin": FILES["a.bin"]}).removed_files == 2
    assert (place.directory / "sub/deep/c").read_text() == "mine now"


def test_another_dataset_is_refused(place: Place) -> None:
    place.fetch(FILES)
    with pytest.raises(StoreConflict, match=r"holds s3://models/gpt, not s3://models/bert; name another directory"):
        place.fetch(FILES, prefix="bert")
    assert place.content() == FILES


def test_two_fetches_at_once_are_refused(place: Place) -> None:
    place.fetch(FILES)
    with (place.directory / FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreConflict, match="another fetch writes there"):
            place.fetch(FILES)


def test_what_stands_in_the_way_is_named(place: Place) -> None:
    (place.directory / "a.bin").mkdir(parents=True)
    with pytest.raises(StoreConflict, match=r"a\.bin: something else is in its way"):
        place.fetch(FILES)
    (place.directory / "a.bin").rmdir()
    place.fetch(FILES)
    assert place.content() == FILES


def test_an_object_with_the_name_of_our_folder_is_refused(place: Place) -> None:
    with pytest.raises(UnsafeKey, match=FOLDER):
        place.fetch({f"{FOLDER}/record": b"x"})


def test_a_full_disk_is_told_before_the_first_byte(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1, f_frsize=1024))
    with pytest.raises(InsufficientDisk, match=r"needs 2\.1 KiB more in .*has 1\.0 KiB free"):
        place.fetch(FILES)
    assert place.engine.total == 0


def test_parts_of_a_former_version_are_removed(place: Place) -> None:
    place.fetch(FILES)
    (place.directory / FOLDER / "abc.part").write_bytes(b"half")
    (place.directory / FOLDER / "abc.journal").write_bytes(b"half")
    place.fetch(FILES)
    assert place.left() == {"record", "lock"}


@pytest.mark.parametrize("torn", ['{"path": "a.b', "", "[]"])
def test_a_record_that_a_crash_tore_costs_what_it_lost(place: Place, torn: str) -> None:
    place.fetch(FILES)
    record = place.directory / FOLDER / "record"
    lines = record.read_text().splitlines()
    record.write_text("\n".join([*lines[:3], torn]))
    place.fetch(FILES)
    assert place.content() == FILES
    assert place.engine.total == SIZE + sum(map(len, FILES.values())) - _named(lines[1:3])
    assert place.fetch(FILES).fetched_bytes == 0


def _named(lines: list[str]) -> int:
    return sum(len(content) for path, content in FILES.items() if any(f'"{path}"' in line for line in lines))


def test_progress_counts_what_was_there(place: Place) -> None:
    place.fetch({"a.bin": FILES["a.bin"]})
    seen: list[FetchProgress] = []
    download(place.directory, place.manifest(FILES), place.engine, progress=seen.append)
    assert all(2048 <= now.done_bytes <= SIZE for now in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes == SIZE
