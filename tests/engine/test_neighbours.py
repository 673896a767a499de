"""Neighbours over sockets: one that stalls, drips or answers oddly is left, and connections to them are used again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kube_cache.dataset.range_plan import Choice
from kube_cache.dataset.source import Answer, Body, Piece, Request, Server
from kube_cache.engine import parked
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.errors import AccessDenied, SourceUnavailable
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin
from tests.engine.fetcher import Fetcher, no_leak
from tests.engine.objects import DATA, MIB, assert_whole
from tests.engine.plans import ScriptedPlan, from_origin
from tests.origin.memory import MemoryOrigin

RANGE = 4 * MIB


class HttpNeighbour:
    """Implements `Source` over plain HTTP."""

    def __init__(self, name: str, server: FaultyOrigin, *, stall_s: float = 60.0, min_bytes_per_s: int = 0) -> None:
        self.name = name
        self._server = Server(tls=False, host="127.0.0.1", port=server.port)
        self._stall_s = stall_s
        self._min_bytes_per_s = min_bytes_per_s

    def request(self, piece: Piece) -> Request:
        head = f"GET /v1/{piece.object.key} HTTP/1.1\r\nHost: x\r\nRange: bytes={piece.first}-{piece.last}\r\n\r\n"
        return Request(self._server, None, head.encode(), self._stall_s, self._min_bytes_per_s)

    def accept(self, piece: Piece, answer: Answer) -> None:
        if answer.status >= 300:
            raise AccessDenied(f"{self.name} refuses {piece.object.key}: {answer.status}")

    def open(self, piece: Piece) -> Body:
        raise SourceUnavailable(f"{self.name} answers oddly for {piece.object.key}")


@pytest.fixture
def neighbours() -> Iterator[list[FaultyOrigin]]:
    """Two servers, and the check that neither they nor an engine leave anything behind."""
    with no_leak():
        servers = [FaultyOrigin() for _ in range(2)]
        for server in servers:
            server.put("key", DATA)
        yield servers
        for server in servers:
            server.close()


@pytest.fixture
def fetch(neighbours: list[FaultyOrigin], tmp_path: Path) -> Iterator[Callable[[ScriptedPlan], Fetcher]]:
    origin = MemoryOrigin()
    remote = origin.put("key", DATA)
    engine = Engine(EngineSettings(connections=1, max_connections=1, stall_timeout_s=600), origin)
    fetcher = Fetcher(engine, tmp_path, origin)

    def fetch(plan: ScriptedPlan) -> Fetcher:
        engine.fetch(
            [replace(job, plan=plan) for job in fetcher.jobs([remote])],
            on_object=lambda done: fetcher.done.__setitem__(done.job.object.key, done),
            progress=fetcher.progress.append,
        )
        return fetcher

    yield fetch
    engine.close()


def once(first: Choice) -> ScriptedPlan:
    left = [first]
    return ScriptedPlan(lambda wanted: left.pop() if left else from_origin(wanted))


def test_connections_to_neighbours_that_are_asked_in_turn_are_used_again(
    neighbours: list[FaultyOrigin], fetch: Callable[[ScriptedPlan], Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "_MAX_IDLE_S", 600.0)
    near, far = (HttpNeighbour(name, server) for name, server in zip(("near", "far"), neighbours, strict=True))

    def choose(wanted: Collection[int]) -> Choice:
        return Choice(min(wanted), (near, far)[min(wanted) % 2])

    fetcher = fetch(ScriptedPlan(choose))
    assert_whole(fetcher)
    assert [len(server.gets()) for server in neighbours] == [3, 3]
    assert [len(server._threads) for server in neighbours] == [1, 1], "a thread serves one connection"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        pytest.param(faults.stall(body=3 * MIB), "TransferStalled", id="stalls"),
        pytest.param(faults.stall(after_head=0), "TransferStalled", id="says nothing"),
        pytest.param(faults.drip(0.05, head=False), "TransferStalled", id="drips"),
        pytest.param(faults.reset(body=3 * MIB, rst=False), "SourceUnavailable", id="cuts off"),
        pytest.param(faults.changed(headers={"Content-Length": "7"}), "SourceUnavailable", id="another length"),
        pytest.param(faults.changed(headers={"Content-Range": "bytes 0-7/8"}), "SourceUnavailable", id="another range"),
        pytest.param(faults.status("403 Forbidden"), "AccessDenied", id="refuses"),
        pytest.param(faults.status("302 Found", Location="http://x.invalid/"), "AccessDenied", id="redirects"),
        pytest.param(faults.corrupt(5), "WrongBytes", id="lies"),
    ],
)
def test_a_neighbour_that_misbehaves_costs_one_attempt(
    neighbours: list[FaultyOrigin], fetch: Callable[[ScriptedPlan], Fetcher], fault: Fault, told: str
) -> None:
    """Its own patience holds, not that with the origin."""
    neighbours[0].script = lambda _request: fault
    stall_s = 1.0 if told == "TransferStalled" else 60.0
    near = HttpNeighbour("near", neighbours[0], stall_s=stall_s, min_bytes_per_s=10_000)
    plan = once(Choice(1, near, 1))
    fetcher = fetch(plan)
    assert_whole(fetcher)
    assert plan.told("failed") == [[1, "near", told]]
    assert len(neighbours[0].gets()) == 1


def test_a_neighbour_that_is_not_there_costs_one_attempt(
    neighbours: list[FaultyOrigin], fetch: Callable[[ScriptedPlan], Fetcher]
) -> None:
    server = FaultyOrigin()
    gone = HttpNeighbour("gone", server)
    server.close()
    plan = once(Choice(0, gone))
    assert_whole(fetch(plan))
    assert plan.told("failed") == [[0, "gone", "SourceUnavailable"]]


def test_a_neighbour_that_closed_a_kept_connection_is_connected_to_again(
    neighbours: list[FaultyOrigin], fetch: Callable[[ScriptedPlan], Fetcher]
) -> None:
    """Whether it was kept by the worker or parked."""
    near, far = (HttpNeighbour(name, server) for name, server in zip(("near", "far"), neighbours, strict=True))
    turns = iter([near, near, far, near, far, far])

    def choose(wanted: Collection[int]) -> Choice:
        if len(wanted) < 6:
            for sock in [sock for server in neighbours for sock in list(server._open)]:
                sock.shutdown(socket.SHUT_RDWR)
        return Choice(min(wanted), next(turns))

    plan = ScriptedPlan(choose)
    assert_whole(fetch(plan))
    assert not plan.told("failed")


def test_a_connection_that_nobody_wants_is_closed(
    neighbours: list[FaultyOrigin], fetch: Callable[[ScriptedPlan], Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "_MAX_IDLE_S", 0.0)
    near, far = (HttpNeighbour(name, server) for name, server in zip(("near", "far"), neighbours, strict=True))
    turns = iter([near, far, near, far, near, far])
    plan = ScriptedPlan(lambda wanted: Choice(min(wanted), next(turns)))
    assert_whole(fetch(plan))
    assert [len(server._threads) for server in neighbours] == [3, 3]
