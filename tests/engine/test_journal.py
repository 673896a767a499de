"""A journal promises what it synced, nothing more, whatever a crash leaves of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_cache.engine.journal import DoneRange, Journal

IDENTITY: dict[str, str | int | None] = {"uri": "s3://b/k", "etag": '"e"', "size": 100}
RANGES = [DoneRange(number, 10 + number, number * 7919, number) for number in range(9)]


def written(path: Path, ranges: list[DoneRange]) -> None:
    journal = Journal(path, IDENTITY)
    with path.with_suffix(".data").open("wb") as data:
        for done in ranges:
            journal.add(done)
        journal.flush(data.fileno())
    journal.close()


def read(path: Path, identity: dict[str, str | int | None] = IDENTITY) -> dict[int, DoneRange]:
    journal = Journal(path, identity)
    journal.close()
    return journal.ranges


def test_what_was_flushed_is_there_again(tmp_path: Path) -> None:
    written(tmp_path / "j", RANGES)
    written(tmp_path / "j", [DoneRange(20, 5, 6, 7)])
    assert list(read(tmp_path / "j").values()) == [*RANGES, DoneRange(20, 5, 6, 7)]


def test_a_record_is_24_bytes(tmp_path: Path) -> None:
    written(tmp_path / "j", [])
    before = (tmp_path / "j").stat().st_size
    written(tmp_path / "j", RANGES)
    assert (tmp_path / "j").stat().st_size - before == 24 * len(RANGES)


def test_a_range_of_a_neighbours_is_none_to_a_build_that_knows_no_neighbours(tmp_path: Path) -> None:
    """Such a build would take the range for proven; by the record's number it is beyond all ranges of any object."""
    written(tmp_path / "j", [DoneRange(3, 5, 6, 7, from_neighbour=True), DoneRange(4, 5, 6, 7)])
    assert list(read(tmp_path / "j").values()) == [DoneRange(3, 5, 6, 7, from_neighbour=True), DoneRange(4, 5, 6, 7)]
    records = (tmp_path / "j").read_bytes()[-48:]
    numbers = [int.from_bytes(records[at : at + 4], "little") for at in (0, 24)]
    assert numbers == [(1 << 31) + 3, 4]


def test_what_was_not_flushed_is_not_promised(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", IDENTITY)
    journal.add(RANGES[0])
    journal.close()
    assert read(tmp_path / "j") == {}


def test_the_data_is_synced_before_the_record_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    journal = Journal(tmp_path / "j", IDENTITY)
    with (tmp_path / "data").open("wb") as data:
        real_sync, real_write = os.fdatasync, os.pwrite
        monkeypatch.setattr(
            os, "fdatasync", lambda fd: (order.append("data" if fd == data.fileno() else "journal"), real_sync(fd))[1]
        )
        monkeypatch.setattr(os, "pwrite", lambda *args: (order.append("record"), real_write(*args))[1])
        journal.add(RANGES[0])
        journal.flush(data.fileno())
    journal.close()
    assert order == ["data", "record", "journal"]


def test_a_failed_sync_keeps_the_records_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j", IDENTITY)
    with (tmp_path / "data").open("wb") as data:
        journal.add(RANGES[0])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(5, "EIO")))
            with pytest.raises(OSError, match="EIO"):
                journal.flush(data.fileno())
        journal.flush(data.fileno())
    journal.close()
    assert list(read(tmp_path / "j").values()) == RANGES[:1]


@pytest.mark.parametrize("change", [{"etag": '"f"'}, {"size": 101}, {"uri": "s3://b/l"}], ids=str)
def test_another_object_starts_anew(tmp_path: Path, change: dict[str, str | int | None]) -> None:
    written(tmp_path / "j", RANGES)
    assert read(tmp_path / "j", {**IDENTITY, **change}) == {}


def test_forgotten_ranges_stay_forgotten(tmp_path: Path) -> None:
    written(tmp_path / "j", RANGES)
    journal = Journal(tmp_path / "j", IDENTITY)
    journal.forget({2, 3})
    with (tmp_path / "data").open("wb") as data:
        journal.flush(data.fileno())
    journal.close()
    assert set(read(tmp_path / "j")) == {0, 1, 4, 5, 6, 7, 8}


@settings(max_examples=60)
@given(st.integers(0, 400), st.binary(max_size=40), st.integers(0, 400))
def test_a_torn_journal_never_promises_what_was_not_written(cut: int, noise: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        written(path, RANGES)
        data = bytearray(path.read_bytes())[: max(0, len(path.read_bytes()) - cut)]
        data[at : at + len(noise)] = noise
        path.write_bytes(data)
        assert set(read(path).values()) <= set(RANGES)
        written(path, RANGES[:1])  # and it goes on
        assert read(path)[0] == RANGES[0]
