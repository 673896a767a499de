"""One node, many fetches: one bound on connections, on bytes and on memory; priorities; nobody starves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from tests.engine.conftest import Fetcher
from tests.engine.origin import Fault, Origin, Reply, Request
from tests.engine.test_faults import DATA

MIB = 1 << 20


def paced(seconds: float) -> Fault:
    def fault(reply: Reply) -> None:
        time.sleep(seconds)
        reply.send()

    return fault


def in_background(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_connections_are_bounded_over_all_fetches(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint, connections=3, max_connections=3)
    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(30)]
    origin.script = lambda _request: paced(0.02)
    threads = [
        in_background(lambda part=objects[start::3]: one.engine.fetch(one.jobs(part), on_object=lambda _done: None))
        for start in range(3)
    ]
    for thread in threads:
        thread.join()
    data = [request for request in origin.gets() if "if-match" in request.headers]
    assert len(data) == 30
    # Three of the data plane, and of the control plane as many as workers asked for the bucket's place at once.
    assert origin.max_connections_seen <= 6


def test_the_higher_priority_goes_first_and_the_lower_still_moves(
    origin: Origin, fetcher: Callable[..., Fetcher]
) -> None:
    one = fetcher(origin.endpoint, connections=4, max_connections=4)
    low = [origin.put(f"low{number:02}", DATA[:1000]) for number in range(60)]
    high = [origin.put(f"high{number:02}", DATA[:1000]) for number in range(60)]
    origin.script = lambda request: paced(0.02) if request.method == "GET" else None
    ended: dict[str, float] = {}

    def run(name: str, objects: list, priority: int) -> None:  # type: ignore[type-arg]
        one.engine.fetch(_jobs(one, name, objects), on_object=lambda _done: None, priority=priority)
        ended[name] = time.monotonic()

    first = in_background(lambda: run("low", low, 0))
    while not origin.gets():
        time.sleep(0.005)
    second = in_background(lambda: run("high", high, 10))
    second.join()
    asked = [request.key[:3] for request in origin.gets()]
    first.join()
    assert ended["high"] < ended["low"]
    last = len(asked) - 1 - asked[::-1].index("hig")
    low_meanwhile = asked[asked.index("hig") : last].count("low")
    assert 5 < low_meanwhile < 40  # one connection of the four


@pytest.mark.slow
def test_a_small_pull_does_not_wait_for_a_huge_one(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint, connections=4, max_connections=4)
    huge = [origin.put("huge", DATA * 8)]
    small = [origin.put("small", DATA[:1000])]
    origin.script = lambda request: paced(0.3) if request.range else None
    first = in_background(lambda: one.engine.fetch(_jobs(one, "huge", huge), on_object=lambda _done: None))
    while len([each for each in origin.gets() if each.range]) < 4:
        time.sleep(0.005)
    started = time.monotonic()
    one.engine.fetch(_jobs(one, "small", small), on_object=lambda _done: None)
    waited = time.monotonic() - started
    assert first.is_alive()
    first.join()
    assert waited < 1.5


@pytest.mark.slow
def test_the_bandwidth_cap_holds(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint, max_bytes_per_s=10 * MIB)
    found = origin.put("key", DATA)
    started = time.monotonic()
    one.fetch([found])
    assert one.content("key") == DATA
    rate = len(DATA) / (time.monotonic() - started)
    assert 5 * MIB < rate < 13 * MIB


@pytest.mark.slow
def test_progress_comes_each_second_while_nothing_moves(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint, stall_timeout_s=1, give_up_s=3)
    found = origin.put("key", DATA)
    beats: list[float] = []

    def silent(request: Request) -> Fault | None:
        return _hang if request.range else None

    def _hang(reply: Reply) -> None:
        reply.stop.wait(3.5)
        reply.send()

    origin.script = silent
    try:
        one.engine.fetch(
            one.jobs([found]), on_object=lambda _done: None, progress=lambda _shown: beats.append(time.monotonic())
        )
    except Exception as error:
        assert "s3://bucket/key" in str(error)
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert len(beats) >= 3
    assert max(gaps) < 2


def test_time_is_accounted_for(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint)
    origin.script = lambda request: paced(0.1) if request.range else None
    one.fetch([origin.put("key", DATA)])
    timings = one.done["key"].timings
    assert timings.first_byte_s >= 0.3
    assert timings.network_s > 0
    assert timings.verify_s > 0
    assert timings.write_s > 0


def _jobs(fetcher: Fetcher, name: str, objects: list) -> list:  # type: ignore[type-arg]
    from kube_cache.dataset.transfer import FetchJob

    return [
        FetchJob(each, fetcher.folder / f"{name}-{number}.part", fetcher.folder / f"{name}-{number}.journal")
        for number, each in enumerate(objects)
    ]


def test_many_small_objects_begin_with_more_connections(origin: Origin, fetcher: Callable[..., Fetcher]) -> None:
    one = fetcher(origin.endpoint)
    one.fetch([origin.put(f"few{number}", b"x" * 1000) for number in range(8)])
    assert one.engine._governor.connections == 8
    one.fetch([origin.put(f"many{number}", b"x" * 1000) for number in range(64)])
    assert one.engine._governor.connections >= 16
    assert all(one.content(f"many{number}") == b"x" * 1000 for number in range(64))
