"""A job's plan says where each range comes from; the engine proves the bytes and falls back to the origin."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt import checksums

from kube_cache.dataset.range_plan import Choice
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Piece
from kube_cache.dataset.transfer import FetchedObject, FetchProgress, Verified
from kube_cache.engine import planned, worker
from kube_cache.engine.engine import Engine
from kube_cache.engine.metering import EngineMeter
from kube_cache.engine.settings import EngineSettings
from kube_cache.errors import (
    AccessDenied,
    ChecksumMismatch,
    DatasetNotFound,
    KubeCacheError,
    SourceChanged,
    SourceUnavailable,
    TransferStalled,
)
from tests.engine.fetcher import Fetcher, no_leak
from tests.engine.objects import DATA, MIB, assert_whole
from tests.engine.plans import Choose, ScriptedPlan, from_origin
from tests.origin.memory import MemoryOrigin, MemorySource
from tests.telemetry.scrape import Changes

RANGE = 4 * MIB
COUNT = 6
"""Ranges of DATA: five of 4 MiB and an unaligned tail."""


def crc_of(number: int) -> int:
    return checksums.crc64nvme(DATA[number * RANGE : (number + 1) * RANGE])


class Bench:
    """An engine over an origin and two neighbours in memory, all of which have `DATA` as `key`."""

    def __init__(self, folder: Path) -> None:
        self.origin = MemoryOrigin()
        self.near, self.far = MemorySource("near"), MemorySource("far")
        self.near.data["key"] = self.far.data["key"] = DATA
        self.remote = self.origin.put("key", DATA)
        self.folder = folder
        self.fetchers: list[Fetcher] = []
        self.fetcher = self.restart()

    def restart(self, **settings: object) -> Fetcher:
        """Make an engine that knows nothing of the earlier ones."""
        for earlier in self.fetchers:
            earlier.engine.close()
        settings = {"connections": 2, "max_connections": 2, "give_up_s": 600, **settings}
        engine = Engine(EngineSettings(**settings), self.origin)  # type: ignore[arg-type]
        self.fetcher = Fetcher(engine, self.folder, self.origin)
        self.fetchers.append(self.fetcher)
        return self.fetcher

    def fetch(self, plan: ScriptedPlan | None, remote: RemoteObject | None = None) -> FetchedObject:
        remote = remote or self.remote
        fetcher = self.fetcher
        jobs = [replace(job, plan=plan) for job in fetcher.jobs([remote])]
        fetcher.engine.fetch(
            jobs,
            on_object=lambda done: fetcher.done.__setitem__(done.job.object.key, done),
            progress=fetcher.progress.append,
        )
        return fetcher.done[remote.key]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with no_leak():
        bench = Bench(tmp_path)
        yield bench
        bench.fetcher.engine.close()


def once(first: Choice, then: Choose) -> Choose:
    """Give `first` as soon as its range is wanted, and then as `then` says. One worker asks at a time."""
    left = [first]

    def choose(wanted: Collection[int]) -> Choice | None:
        if left and first.number in wanted:
            return left.pop()
        return then(wanted)

    return choose


def test_each_range_comes_from_where_the_plan_says(bench: Bench) -> None:
    def choose(wanted: Collection[int]) -> Choice:
        number = min(wanted)
        return Choice(number, (None, bench.near, bench.far)[number % 3], crc_of(number))

    plan = ScriptedPlan(choose)
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert bench.origin.firsts() == [0, 3 * RANGE]
    assert bench.near.firsts() == [RANGE, 4 * RANGE]
    assert bench.far.firsts() == [2 * RANGE, 5 * RANGE]
    assert done.neighbour_bytes == {"near": 2 * RANGE, "far": RANGE + len(DATA) - 5 * RANGE}
    assert done.fetched_bytes == len(DATA)
    totals = bench.fetcher.engine.totals()
    assert (totals.received_bytes, totals.neighbour_bytes) == (len(DATA), sum(done.neighbour_bytes.values()))
    assert plan.events[0] == ("opened",)
    assert plan.provable
    assert [(span.number, span.offset, span.length) for span in plan.ranges] == [
        (number, number * RANGE, min(RANGE, len(DATA) - number * RANGE)) for number in range(COUNT)
    ]
    assert sorted(plan.told("done")) == [
        [number, crc_of(number), ("origin", "near", "far")[number % 3]] for number in range(COUNT)
    ]
    assert not plan.told("failed") + plan.told("mismatch") + plan.told("lied")


def test_bytes_are_counted_by_who_sent_them(bench: Bench) -> None:
    """Also those that were dropped: a neighbour's as a neighbour's, so that the origin's figure is the origin's own."""
    changes, meter = Changes(), EngineMeter(bench.fetcher.engine)
    bench.near.script = lambda _piece, data: data[: 3 * MIB]
    plan = ScriptedPlan(
        once(Choice(1, bench.near, crc_of(1)), lambda wanted: Choice(min(wanted), _third(wanted, bench)))
    )
    done = bench.fetch(plan)
    meter.update()
    from_far = done.neighbour_bytes["far"]
    assert 0 < from_far < len(DATA)
    assert changes.of("kube_cache_peer_received_bytes_total") == from_far + 3 * MIB
    assert changes.of("kube_cache_received_bytes_total") == len(DATA) - from_far
    meter.update()
    assert changes.of("kube_cache_received_bytes_total") == len(DATA) - from_far


def _third(wanted: Collection[int], bench: Bench) -> MemorySource | None:
    """Choose the neighbour for each third range, and the origin for the others."""
    return bench.far if min(wanted) % 3 == 0 else None


def test_a_range_that_is_with_a_worker_is_not_offered_to_the_plan(bench: Bench) -> None:
    plan = ScriptedPlan(lambda wanted: Choice(min(wanted), bench.near))
    bench.fetch(plan)
    assert [min(question) for question in plan.questions] == list(range(COUNT))
    assert [len(question) for question in plan.questions] == list(range(COUNT, 0, -1))


def test_a_small_object_skips_its_plan(bench: Bench) -> None:
    remote = bench.origin.put("small", DATA[: 8 * MIB])
    plan = ScriptedPlan(from_origin)
    done = bench.fetch(plan, remote)
    assert done.verified is Verified.FULL_OBJECT
    assert (plan.events, plan.questions) == ([], [])
    assert bench.origin.firsts() == [0]


@pytest.mark.parametrize(
    "error",
    [SourceUnavailable, TransferStalled, DatasetNotFound, AccessDenied, SourceChanged, ValueError],
    ids=lambda kind: kind.__name__,
)
def test_a_neighbour_that_fails_costs_the_range_nothing(bench: Bench, error: type[Exception]) -> None:
    """Whatever it answers says nothing of the object. A source that is broken itself does not end the fetch either."""

    def refuse(_piece: Piece, _data: bytes) -> bytes:
        raise error("as asked")

    bench.near.script = refuse
    plan = ScriptedPlan(once(Choice(2, bench.near, crc_of(2)), from_origin))
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    told = "SourceUnavailable" if error is ValueError else error.__name__
    assert plan.told("failed") == [[2, "near", told]]
    assert plan.events.index(("failed", 2, "near", told)) < plan.events.index(("done", 2, crc_of(2), "origin"))
    assert done.neighbour_bytes == {}
    totals = bench.fetcher.engine.totals()
    assert not any(totals.retries.values())


def test_what_a_neighbour_cut_off_is_fetched_anew_and_counted_once(bench: Bench) -> None:
    """Half a range proves nothing: a second neighbour's half would leave open who of the two lied."""
    bench.near.script = lambda _piece, data: data[: 3 * MIB]
    plan = ScriptedPlan(once(Choice(1, bench.near, crc_of(1)), lambda wanted: Choice(min(wanted), bench.far)))
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.told("failed") == [[1, "near", "SourceUnavailable"]]
    assert bench.far.firsts() == [number * RANGE for number in range(COUNT)]
    assert done.neighbour_bytes == {"far": len(DATA)}
    assert bench.fetcher.engine.totals().neighbour_bytes == len(DATA) + 3 * MIB


def test_wrong_bytes_are_told_and_come_from_elsewhere(bench: Bench) -> None:
    bench.near.script = lambda _piece, data: b"\0" + data[1:]
    plan = ScriptedPlan(once(Choice(3, bench.near, crc_of(3)), lambda wanted: Choice(min(wanted), bench.far)))
    bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.told("failed") == [[3, "near", "WrongBytes"]]
    assert bench.far.firsts() == [number * RANGE for number in range(COUNT)]
    assert not plan.told("mismatch")


def test_bytes_of_the_origin_survive_a_neighbour_that_fails(bench: Bench) -> None:
    """The origin breaks in the middle of a range, a neighbour that is asked next as well: the first bytes are kept."""
    cut = threading.Event()

    def cut_once(piece: Piece, data: bytes) -> bytes:
        if piece.first == 0 and not cut.is_set():
            cut.set()
            return data[: 3 * MIB]  # of which the first buffer is written
        return data

    bench.origin.script = cut_once
    bench.near.script = lambda _piece, data: data[:MIB]
    turns = iter([Choice(0, None), Choice(0, bench.near)])
    plan = ScriptedPlan(lambda wanted: next(turns, None) if 0 in wanted and not _over(plan) else from_origin(wanted))
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.told("failed") == [[0, "origin", "SourceUnavailable"], [0, "near", "SourceUnavailable"]]
    assert bench.near.firsts() == [2 * MIB]
    assert [piece.first for piece in bench.origin.asked if piece.first < RANGE] == [0, 2 * MIB]
    assert done.neighbour_bytes == {}


def test_after_wrong_bytes_the_whole_range_comes_again(bench: Bench) -> None:
    """Its beginning may be what is wrong: here the path to the origin changed a byte, and the neighbour is honest."""

    def cut_once(piece: Piece, data: bytes) -> bytes:
        return b"\0" + data[1 : 3 * MIB] if piece.first == 0 else data

    bench.origin.script = cut_once
    turns = iter([Choice(0, None), *(Choice(0, bench.near, crc_of(0)) for _ in range(2))])
    plan = ScriptedPlan(lambda wanted: next(turns) if 0 in wanted else from_origin(wanted))
    bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.told("failed") == [[0, "origin", "SourceUnavailable"], [0, "near", "WrongBytes"]]
    assert [piece.first for piece in bench.near.asked] == [2 * MIB, 0]
    assert not plan.told("mismatch")


def _over(plan: ScriptedPlan) -> bool:
    return len(plan.told("failed")) >= 2


def test_whoever_lied_is_named_once_the_object_is_proven(bench: Bench) -> None:
    """Nobody vouched for the ranges, so only the whole object's checksum tells; the origin's ranges are kept."""
    bench.near.script = lambda piece, data: data[:-1] + b"\0" if piece.first == RANGE else data
    sources = {1: bench.near, 2: bench.near, 4: bench.far}
    plan = ScriptedPlan(lambda wanted: Choice(min(wanted), sources.get(min(wanted))))
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.told("mismatch") == [[[1, 2, 4]]]
    assert plan.told("lied") == [[1, "near"]]
    assert bench.origin.firsts() == [number * RANGE for number in range(COUNT)]
    assert done.neighbour_bytes == {}
    assert [done for done in plan.told("done") if done[0] == 1] == [
        [1, checksums.crc64nvme(DATA[RANGE : 2 * RANGE - 1] + b"\0"), "near"],
        [1, crc_of(1), "origin"],
    ]


def test_an_object_that_is_wrong_at_the_origin_accuses_nobody(bench: Bench) -> None:
    """Its checksum is of other bytes: neighbours and origin send the same, and the fetch ends as ever."""
    other = DATA[:-1] + bytes([DATA[-1] ^ 1])
    bench.origin.data["key"] = bench.near.data["key"] = other
    plan = ScriptedPlan(once(Choice(0, bench.near), from_origin))
    with pytest.raises(ChecksumMismatch):
        bench.fetch(plan)
    assert plan.told("mismatch") == [[[0]]]
    assert plan.told("lied") == []


def test_without_a_checksum_neighbours_make_an_object_peer_sampled(bench: Bench) -> None:
    bare = bench.origin.put("bare", DATA, proven=False)
    bench.near.data["bare"] = DATA
    plan = ScriptedPlan(once(Choice(0, bench.near), from_origin))
    assert bench.fetch(plan, bare).verified is Verified.PEER_SAMPLED
    assert plan.provable is False


def test_without_a_checksum_the_origin_alone_is_transport_only(bench: Bench) -> None:
    bare = bench.origin.put("bare", DATA, proven=False)
    assert bench.fetch(ScriptedPlan(from_origin), bare).verified is Verified.TRANSPORT_ONLY


def test_the_origins_bytes_are_taken_whatever_the_plan_expected(bench: Bench) -> None:
    """The plan compares: whoever vouched for another checksum is proven wrong."""
    plan = ScriptedPlan(lambda wanted: Choice(min(wanted), None, 12345))
    bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert sorted(plan.told("done")) == [[number, crc_of(number), "origin"] for number in range(COUNT)]


def test_a_plan_that_has_nothing_is_asked_again_when_it_wakes_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kube_cache.engine.work_queue.ASK_AGAIN_S", 3600.0)
    has_bytes = threading.Event()

    def choose(wanted: Collection[int]) -> Choice | None:
        if has_bytes.is_set():
            return Choice(min(wanted), bench.near)
        threading.Thread(target=wake).start()
        return None

    def wake() -> None:
        has_bytes.set()
        plan.wake()

    plan = ScriptedPlan(choose)
    bench.fetch(plan)
    assert_whole(bench.fetcher)


def test_a_wake_during_the_question_is_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kube_cache.engine.work_queue.ASK_AGAIN_S", 3600.0)
    asked = [0]

    def choose(wanted: Collection[int]) -> Choice | None:
        asked[0] += 1
        plan.wake()
        return Choice(min(wanted), bench.near) if asked[0] % 2 == 0 else None

    plan = ScriptedPlan(choose)
    bench.fetch(plan)
    assert_whole(bench.fetcher)


def test_a_plan_that_never_wakes_the_engine_is_asked_again_all_the_same(bench: Bench) -> None:
    asked = [0]

    def choose(wanted: Collection[int]) -> Choice | None:
        asked[0] += 1
        return Choice(min(wanted), bench.near) if asked[0] % 3 == 0 else None

    bench.fetch(ScriptedPlan(choose))
    assert_whole(bench.fetcher)
    assert planned.ASK_AGAIN_S == 0.1


def test_a_range_that_the_origin_fails_is_the_plans_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour may have it by now: the origin can be gone for good when one copy is out."""
    monkeypatch.setattr(worker, "_MAX_PLANNED_PAUSE_S", 0.0)

    def gone(_piece: Piece, _data: bytes) -> bytes:
        raise SourceUnavailable("the origin is gone")

    bench.origin.script = gone
    tried: set[int] = set()

    def choose(wanted: Collection[int]) -> Choice:
        number = min(wanted)
        source = bench.near if number in tried else None
        tried.add(number)
        return Choice(number, source, crc_of(number))

    plan = ScriptedPlan(choose)
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert sorted(plan.told("failed")) == [[number, "origin", "SourceUnavailable"] for number in range(COUNT)]
    assert done.neighbour_bytes == {"near": len(DATA)}


def test_an_origin_that_stays_away_ends_the_fetch_as_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MAX_PLANNED_PAUSE_S", 0.0)
    bench.restart(give_up_s=0.001)

    def gone(_piece: Piece, _data: bytes) -> bytes:
        raise SourceUnavailable("the origin is gone")

    bench.origin.script = gone
    plan = ScriptedPlan(from_origin)
    with pytest.raises(SourceUnavailable, match=r"gave up after .* tries: the origin is gone"):
        bench.fetch(plan)


@pytest.mark.parametrize("error", [AccessDenied, SourceChanged])
def test_an_answer_of_the_origin_that_no_retry_helps_ends_the_fetch(bench: Bench, error: type[KubeCacheError]) -> None:
    def refuse(_piece: Piece, _data: bytes) -> bytes:
        raise error("no")

    bench.origin.script = refuse
    with pytest.raises(error):
        bench.fetch(ScriptedPlan(from_origin))


@pytest.fixture
def interrupted(bench: Bench) -> Callable[..., None]:
    """Fetch ranges 0 and 1 from a neighbour and 2 from the origin, and end there."""

    def interrupt(remote: RemoteObject) -> None:
        def choose(wanted: Collection[int]) -> Choice:
            number = min(wanted)
            if number <= 1:
                return Choice(number, bench.near)
            return Choice(number, None)

        def only_the_first(piece: Piece, data: bytes) -> bytes:
            if piece.first >= 3 * RANGE:
                raise AccessDenied("no more for now")
            return data

        bench.restart(connections=1, max_connections=1)  # a range has ended when the next one begins
        bench.origin.script = only_the_first
        plan = ScriptedPlan(choose)
        with pytest.raises(AccessDenied):
            bench.fetch(plan, remote)
        bench.origin.script = lambda _piece, data: data
        for source in (bench.origin, bench.near, bench.far):
            source.asked.clear()
        bench.restart()

    return interrupt


def test_a_restart_tells_the_plan_what_the_disk_has(bench: Bench, interrupted: Callable[..., None]) -> None:
    interrupted(bench.remote)
    plan = ScriptedPlan(from_origin)
    done = bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.complete == {number: crc_of(number) for number in range(3)}
    assert plan.questions[0] == {3, 4, 5}
    assert done.resumed_bytes == 3 * RANGE
    assert bench.origin.firsts() == [number * RANGE for number in range(3, COUNT)]


def test_a_restart_does_not_forget_what_came_from_neighbours(bench: Bench, interrupted: Callable[..., None]) -> None:
    bare = bench.origin.put("bare", DATA, proven=False)
    bench.near.data["bare"] = DATA
    interrupted(bare)
    assert bench.fetch(ScriptedPlan(from_origin), bare).verified is Verified.PEER_SAMPLED


def test_without_a_plan_nothing_that_a_neighbour_sent_is_resumed(
    bench: Bench, interrupted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours were switched off in between: the label must stay true, with the same ranges, too."""
    bare = bench.origin.put("bare", DATA, proven=False)
    bench.near.data["bare"] = DATA
    interrupted(bare)
    monkeypatch.setattr("kube_cache.engine.ranges.range_size", lambda _size: RANGE)
    done = bench.fetch(None, bare)
    assert done.verified is Verified.TRANSPORT_ONLY
    assert done.resumed_bytes == RANGE
    assert bench.origin.firsts() == [number * RANGE for number in (0, 1, 3, 4, 5)]


def test_a_resumed_byte_that_is_wrong_is_the_plans_to_place(bench: Bench, interrupted: Callable[..., None]) -> None:
    interrupted(bench.remote)
    with (bench.folder / "0.part").open("r+b") as part:
        part.seek(RANGE + 5)
        part.write(b"WRONG")
    plan = ScriptedPlan(lambda wanted: Choice(min(wanted), bench.far))
    bench.fetch(plan)
    assert_whole(bench.fetcher)
    assert plan.complete == {0: crc_of(0), 2: crc_of(2)}
    assert plan.questions[0] == {1, 3, 4, 5}
    assert not plan.told("failed")


def test_a_fetch_can_be_cancelled_while_its_plan_has_nothing(bench: Bench) -> None:
    plan = ScriptedPlan(lambda _wanted: None)
    progress: list[FetchProgress] = []
    with pytest.raises(KubeCacheError, match="cancelled"):
        bench.fetcher.engine.fetch(
            [replace(job, plan=plan) for job in bench.fetcher.jobs([bench.remote])],
            on_object=lambda _done: None,
            progress=progress.append,
            cancelled=lambda: len(plan.questions) > 1,
        )


def test_a_plan_that_was_asked_rests_until_its_time_comes_or_it_wakes_the_engine() -> None:
    state = planned.Planned(ScriptedPlan(from_origin))
    state.want(3)
    state.woken = True
    assert state.begin_asking() == {3}
    assert not state.is_due(math.inf), "one worker asks at a time"
    state.end_asking(chosen=False, pause_s=3600)
    assert not state.is_due(time.monotonic())
    assert state.is_due(math.inf)
    state.woken = True
    assert state.is_due(time.monotonic())
