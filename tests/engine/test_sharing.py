"""One node, many fetches: one bound on connections, on bytes and on memory; priorities; nobody starves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.engine import governor
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin, Reply, Request
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB


def in_background(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_connections_are_bounded_over_all_fetches(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint, connections=3, max_connections=3)
    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(30)]
    origin.script = lambda _request: faults.delayed(0.02)
    threads = [
        in_background(
            lambda part=objects[start::3]: fetcher.engine.fetch(fetcher.jobs(part), on_object=lambda _done: None)
        )
        for start in range(3)
    ]
    for thread in threads:
        thread.join()
    data = [request for request in origin.gets() if "if-match" in request.headers]
    assert len(data) == 30
    # Three of the data plane, and of the control plane as many as workers keys for the bucket's place at once.
    assert origin.max_connections_seen <= 6


def test_the_higher_priority_goes_first_and_the_lower_still_moves(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    fetcher = make_fetcher(origin.endpoint, connections=4, max_connections=4)
    low = [origin.put(f"low{number:02}", DATA[:1000]) for number in range(60)]
    high = [origin.put(f"high{number:02}", DATA[:1000]) for number in range(60)]
    origin.script = lambda request: faults.delayed(0.02) if request.method == "GET" else None
    ended: dict[str, float] = {}

    def run(name: str, objects: list[RemoteObject], priority: int) -> None:
        fetcher.engine.fetch(fetcher.jobs(objects, name), on_object=lambda _done: None, priority=priority)
        ended[name] = time.monotonic()

    first = in_background(lambda: run("low", low, 0))
    while not origin.gets():
        time.sleep(0.005)
    second = in_background(lambda: run("high", high, 10))
    second.join()
    keys = [request.key[:3] for request in origin.gets()]
    first.join()
    assert ended["high"] < ended["low"]
    last = len(keys) - 1 - keys[::-1].index("hig")
    low_meanwhile = keys[keys.index("hig") : last].count("low")
    assert 5 < low_meanwhile < 40  # one connection of the four


@pytest.mark.slow
def test_a_small_pull_does_not_wait_for_a_huge_one(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint, connections=4, max_connections=4)
    huge = [origin.put("huge", DATA * 8)]
    small = [origin.put("small", DATA[:1000])]
    origin.script = lambda request: faults.delayed(0.3) if request.range else None
    first = in_background(lambda: fetcher.engine.fetch(fetcher.jobs(huge, "huge"), on_object=lambda _done: None))
    while len([request for request in origin.gets() if request.range]) < 4:
        time.sleep(0.005)
    fetcher.engine.fetch(fetcher.jobs(small, "small"), on_object=lambda _done: None)
    assert first.is_alive()
    first.join()


@pytest.mark.slow
def test_the_bandwidth_cap_holds(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint, max_bytes_per_s=10 * MIB)
    remote = origin.put("key", DATA)
    started = time.monotonic()
    fetcher.fetch([remote])
    assert fetcher.content("key") == DATA
    rate = len(DATA) / (time.monotonic() - started)
    assert rate < 13 * MIB


def test_the_cap_of_one_call_holds(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint)
    remote = origin.put("key", DATA)
    started = time.monotonic()
    fetcher.fetch([remote], max_bytes_per_s=2 * len(DATA))
    assert fetcher.content("key") == DATA
    assert time.monotonic() - started > 0.2, "half a second less what may be caught up"


@pytest.mark.slow
def test_progress_comes_each_second_while_nothing_moves(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    fetcher = make_fetcher(origin.endpoint, stall_timeout_s=1, give_up_s=3)
    remote = origin.put("key", DATA)
    beats: list[float] = []

    def silent(request: Request) -> Fault | None:
        return _hang if request.range else None

    def _hang(reply: Reply) -> None:
        reply.stop.wait(3.5)
        reply.send()

    origin.script = silent
    try:
        fetcher.engine.fetch(
            fetcher.jobs([remote]),
            on_object=lambda _done: None,
            progress=lambda _progress: beats.append(time.monotonic()),
        )
    except Exception as error:
        assert "s3://bucket/key" in str(error)
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert len(beats) >= 3
    assert max(gaps) < 2


def test_time_is_accounted_for(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint)
    origin.script = lambda request: faults.delayed(0.1) if request.range else None
    fetcher.fetch([origin.put("key", DATA)])
    timings = fetcher.done["key"].timings
    assert timings.first_byte_s >= 0.3
    assert timings.network_s > 0
    assert timings.verify_s > 0
    assert timings.write_s > 0


def test_many_small_objects_begin_with_more_connections(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "_TICK_S", 300)  # on a busy machine it would add connections meanwhile
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([origin.put(f"few{number}", b"x" * 1000) for number in range(8)])
    assert fetcher.engine._governor.connections == 8
    fetcher.fetch([origin.put(f"many{number}", b"x" * 1000) for number in range(64)])
    assert fetcher.engine._governor.connections >= 16
    assert all(fetcher.content(f"many{number}") == b"x" * 1000 for number in range(64))
