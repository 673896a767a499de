"""A power cut at any change of the engine's files: the journal never names a range whose bytes the disk does not hold.

The engine, its part files and its journals are the real ones, over a server in this process. `test_kill` cannot show
this, because the page cache survives a SIGKILL.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from awscrt import checksums

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchedObject
from kube_cache.engine import files, finisher, object_state, ranges
from kube_cache.engine.files import Files
from kube_cache.engine.journal import DoneRange, Journal
from kube_cache.errors import DiskFault
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import MIB, full_object_headers
from tests.engine.power_cut import PowerCut

RANGE = 512 << 10
CONTENT = random.Random(11).randbytes(9 * MIB + 777)
"""Nineteen ranges, the last one with an unaligned end."""
SMALL = [random.Random(number).randbytes(5000 + number) for number in range(12)]
"""Enough for one syncfs, besides what is synced alone."""
CUTS = int(os.environ.get("KUBE_CACHE_POWER_CUTS", "40"))
SEED = os.environ.get("KUBE_CACHE_SEED", "")


@pytest.fixture(autouse=True)
def many_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a fraction of a second has many flushes and many ranges."""
    monkeypatch.setattr(object_state, "_FLUSH_S", 0)
    monkeypatch.setattr(finisher, "_TICK_S", 0.001)
    monkeypatch.setattr(finisher, "_MAX_LEAVE_S", 0.2)
    monkeypatch.setattr(ranges, "range_size", lambda _size: RANGE)


@pytest.fixture
def objects(origin: FaultyOrigin) -> list[RemoteObject]:
    """One that declares a checksum, one that does not, and small ones."""
    big = origin.put("big", CONTENT, headers=full_object_headers(CONTENT))
    bare = origin.put("bare", CONTENT[::-1])
    return [big, bare, *(origin.put(f"small{number}", content) for number, content in enumerate(SMALL))]


def content_of(key: str) -> bytes:
    return {"big": CONTENT, "bare": CONTENT[::-1]}.get(key) or SMALL[int(key.removeprefix("small"))]


def records(journal: Path) -> Iterator[DoneRange]:
    """Read the whole records of a journal by the letter of its format, as nothing but the medium holds them."""
    data = journal.read_bytes()
    if len(data) < 16:
        return
    magic, length, crc = struct.unpack_from("<8sII", data)
    if magic != b"kcjrnl1\0" or zlib.crc32(data[16 : 16 + length]) != crc:
        return
    for offset in range(16 + length, len(data) - 23, 24):
        if zlib.crc32(data[offset : offset + 20]) != struct.unpack_from("<I", data, offset + 20)[0]:
            return
        yield DoneRange(*struct.unpack_from("<IIQI", data, offset))


def lies(journal: Path, part: Path) -> list[int]:
    """Return the numbers of the ranges that the journal names and the part file does not hold."""
    data = part.read_bytes()
    return [
        done.number
        for done in records(journal)
        if checksums.crc64nvme(data[done.number * RANGE : done.number * RANGE + done.length]) != done.base
    ]


def cut(fetcher: Fetcher, objects: list[RemoteObject], power: PowerCut) -> list[FetchedObject]:
    """Fetch until the power is cut, and lose what was not durable. Returns the objects that were handed over before."""
    handed_over: list[FetchedObject] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "FILES", power)
        try:
            fetcher.engine.fetch(fetcher.jobs(objects), on_object=handed_over.append)
        except DiskFault as error:
            assert "the power is cut" in error.message or power.is_cut
    power.lose()
    return handed_over


@pytest.mark.slow
def test_after_a_power_cut_the_journal_names_only_what_the_disk_holds(
    origin: FaultyOrigin, objects: list[RemoteObject], make_fetcher: Callable[..., Fetcher]
) -> None:
    """And what was handed over before the cut is whole, no durable range is fetched again, and the rest comes right."""
    chance = random.Random(f"power{SEED}")
    fetcher = make_fetcher(origin.endpoint, connections=3, max_connections=3)
    uncut = PowerCut(chance)
    assert len(cut(fetcher, objects, uncut)) == len(objects)
    cuts = resumed = 0
    while cuts < CUTS:
        for path in fetcher.folder.glob("*.*"):
            path.unlink()
        where = {"at_sync": uncut.syncs} if cuts % 2 else {"at": uncut.changes}
        moment = {name: chance.randrange(1, last) for name, last in where.items()}
        power = PowerCut(chance, **moment, all_is_lost=chance.random() < 0.3)
        handed_over = cut(fetcher, objects, power)
        cuts += power.is_cut
        for done in handed_over:
            assert done.job.part_path.read_bytes() == content_of(done.job.object.key), (
                "handed over before it was durable"
            )
        durable = 0
        for job in fetcher.jobs(objects):
            if job.journal_path.exists():
                assert not lies(job.journal_path, job.part_path), f"cut {cuts}, {moment}"
                durable += sum(done.length for done in records(job.journal_path))
        fetcher.done.clear()
        fetcher.fetch(objects)
        for remote in objects:
            assert fetcher.content(remote.key) == content_of(remote.key)
        assert sum(done.resumed_bytes for done in fetcher.done.values()) == durable
        resumed += durable > 0
    assert resumed, "no cut left anything to resume"


def swapped_flush(journal: Journal, data_fd: int) -> None:
    """`Journal.flush` with its two syncs in the wrong order."""
    pending, journal._pending = journal._pending, []
    if not pending:
        return
    written = b"".join(
        (body := struct.pack("<IIQI", *done[:4])) + struct.pack("<I", zlib.crc32(body)) for done in pending
    )
    files.FILES.write(journal._fd, written, journal._end)
    files.FILES.sync(journal._fd)
    files.FILES.sync(data_fd)
    journal._end += len(written)


@pytest.mark.parametrize(
    "flush", [pytest.param(Journal.flush, id="data-first"), pytest.param(swapped_flush, id="journal-first")]
)
def test_these_cuts_would_find_a_journal_that_is_synced_before_its_data(
    origin: FaultyOrigin,
    objects: list[RemoteObject],
    make_fetcher: Callable[..., Fetcher],
    monkeypatch: pytest.MonkeyPatch,
    flush: Callable[[Journal, int], None],
) -> None:
    """A test of the test above: before every sync in turn, with nothing kept that was not synced."""
    monkeypatch.setattr(Journal, "flush", flush)
    fetcher = make_fetcher(origin.endpoint, connections=2, max_connections=2)
    (job,) = fetcher.jobs(objects[:1])
    uncut = PowerCut(random.Random(0))
    cut(fetcher, objects[:1], uncut)
    assert uncut.syncs > 6, "too few flushes to tell anything"
    found = 0
    for number in range(1, uncut.syncs):
        for path in fetcher.folder.glob("*.*"):
            path.unlink()
        cut(fetcher, objects[:1], PowerCut(random.Random(number), at_sync=number, all_is_lost=True))
        found += job.journal_path.exists() and bool(lies(job.journal_path, job.part_path))
    assert bool(found) == (flush is swapped_flush)


def test_a_name_that_the_power_cut_took_back_is_not_believed(
    origin: FaultyOrigin, objects: list[RemoteObject], make_fetcher: Callable[..., Fetcher]
) -> None:
    """A new file's name is not durable before its folder: either the part or the journal may be gone."""
    fetcher = make_fetcher(origin.endpoint, connections=2, max_connections=2)
    uncut = PowerCut(random.Random(0))
    cut(fetcher, objects[:1], uncut)
    for lost in ("part", "journal"):
        for path in fetcher.folder.glob("*.*"):
            path.unlink()
        cut(fetcher, objects[:1], PowerCut(random.Random(1), at=uncut.changes * 3 // 4, all_is_lost=True))
        (job,) = fetcher.jobs(objects[:1])
        assert list(records(job.journal_path))
        (job.part_path if lost == "part" else job.journal_path).unlink()
        fetcher.done.clear()
        fetcher.fetch(objects[:1])
        assert fetcher.content("big") == CONTENT
        assert fetcher.done["big"].resumed_bytes == 0


def test_the_process_uses_the_plain_calls() -> None:
    assert type(files.FILES) is Files
