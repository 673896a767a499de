"""Networks that lose packets: agents as processes, each in a network namespace, and cuts that answer nobody.

What a cut does to sockets, the loopback cannot show: a connection that hangs is not one that is refused. The other
faults are in `test_faults`, in one process. Every file is compared byte for byte.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kube_cache.peers.cutting import chunk_bytes
from tests.bench import fleet, fleet_links, fleet_run
from tests.bench.fleet_links import Links
from tests.bench.fleet_origin import MIB, Objects, Origin
from tests.bench.fleet_run import Fleet
from tools.stack.waiting import true

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        (problem := fleet_links.missing(cuts=True) or Origin.missing()) is not None, reason=str(problem)
    ),
]
KEY = "one.bin"
ALL_S = 200
"""Patience with a fleet that shares its cores with others; alone, the slowest test takes a minute."""


class Machines:
    """Nodes 1 to `count`, and the origin, which is node 0."""

    def __init__(self, folder: Path, stack: ExitStack, count: int, mbit: int, size: int, origin_links: int) -> None:
        """mbit: of each node's link, each way. size: of the object, bytes. origin_links: the origin's link in those."""
        self.count = count
        self.size = size
        self.links = Links(count, mbit)
        stack.callback(self.links.close)
        self.links.shape(0, mbit * origin_links)
        self._objects = Objects(folder / "objects")
        self._objects.add(KEY, size)
        self._folder = folder
        self._fleet = Fleet(folder, self._objects, self.links, None)
        self.origin = Origin(folder / "origin", self._objects, self.links.inside(0))
        stack.callback(self.origin.stop)
        self._agents: dict[int, subprocess.Popen[str]] = {}
        stack.callback(lambda: fleet_run.end(list(self._agents.values())))

    def start(self, *numbers: int) -> None:
        """Start agents, which begin at once, over the files that they had."""
        for number in numbers:
            folder = self._folder / str(number)
            folder.mkdir(exist_ok=True)
            agent = self._agents[number] = self._fleet.start(
                number, self._fleet.command("ours", self.count, number, [KEY])
            )
            assert agent.stdin is not None
            agent.stdin.write("go\n")
            agent.stdin.flush()

    def kill(self, *numbers: int) -> None:
        fleet_run.end([self._agents.pop(number) for number in numbers])

    def done(self, number: int) -> dict[str, int]:
        """Wait for a node's end, compare its file, and return the bytes that it took, by node; "" is the origin."""
        agent = self._agents[number]
        assert agent.stdout is not None
        patience = threading.Timer(ALL_S, agent.kill)
        patience.start()
        try:
            line = next((line for line in agent.stdout if line != "ready\n"), "")
        finally:
            patience.cancel()
        assert line, f"node {number} has not ended: {self._fleet.log(number).read_text()[-2000:]}"
        assert not self._objects.differ(KEY, self._folder / str(number) / KEY)
        told: dict[str, Any] = json.loads(line)
        return dict(told["from"])

    def all_done(self) -> dict[int, dict[str, int]]:
        return {number: self.done(number) for number in list(self._agents)}

    def partition(self, ours: list[int], theirs: list[int]) -> None:
        for one in ours:
            for other in theirs:
                self.links.cut(one, other)
                self.links.cut(other, one)

    def has_copy(self) -> bool:
        """Return whether the nodes together have every byte of the object."""
        files = [file for number in self._agents if (file := self._folder / str(number) / KEY).exists()]
        with ExitStack() as stack:
            copies = [stack.enter_context(file.open("rb")) for file in files]
            whole = stack.enter_context(self._objects.path(KEY).open("rb"))
            while piece := whole.read(MIB):
                if piece not in [copy.read(MIB) for copy in copies]:
                    return False
        return True

    def sent(self, share: float) -> Callable[[], bool]:
        """Return a condition: the origin has sent that share of the object."""
        return lambda: self.origin.sent >= share * self.size


Make = Callable[..., Machines]


@pytest.fixture
def machines() -> Iterator[Make]:
    folder = fleet.own_folder()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)

        def make(count: int, *, mbit: int = 40, size: int = 40 * MIB, origin_links: int = 1) -> Machines:
            return Machines(folder, stack, count, mbit, size, origin_links)

        yield make


def test_two_halves_that_lose_each_other_for_half_a_minute_go_on_and_share_again(machines: Make) -> None:
    fleet = machines(6, mbit=20, size=110 * MIB)  # a lone download takes 46 s
    ours, theirs = [1, 2, 3], [4, 5, 6]
    fleet.start(*ours, *theirs)
    true(fleet.sent(0.05), "the download has begun", ALL_S)
    fleet.partition(ours, theirs)
    heals_at = time.monotonic() + 30
    began = fleet.origin.sent
    true(lambda: time.monotonic() > heals_at, "half a minute")
    assert fleet.origin.sent > began + 8 * MIB, "nobody went on in the meantime"
    for number in (*ours, *theirs):
        assert fleet.links.lost(number), "the cut cut nothing"
        fleet.links.heal(number)
    took = fleet.all_done()
    assert fleet.origin.sent < 1.9 * fleet.size, "the halves did not share what each had fetched by itself"
    for half, others in ((ours, theirs), (theirs, ours)):
        assert sum(took[one].get(f"node-{other}", 0) for one in half for other in others) > 4 * MIB


def test_a_node_that_cannot_call_another_one_gets_its_chunks_elsewhere(machines: Make) -> None:
    fleet = machines(4)
    fleet.links.cut(1, 2, lets_answer=True)
    fleet.start(1, 2, 3, 4)
    took = fleet.all_done()
    assert fleet.links.lost(1)
    assert not took[1].get("node-2")
    assert took[2].get("node-1"), "it can be called by the other, and has what that needs"
    assert fleet.origin.sent <= 1.1 * fleet.size


def test_when_all_agents_are_killed_and_start_again_the_origin_gives_only_what_was_under_way(machines: Make) -> None:
    fleet = machines(4)
    everybody = [1, 2, 3, 4]
    fleet.start(*everybody)
    true(fleet.sent(0.5), "half of it is out", ALL_S)
    fleet.kill(*everybody)
    fleet.start(*everybody)
    fleet.all_done()
    assert fleet.origin.sent <= fleet.size + len(everybody) * 8 * (chunk_bytes(fleet.size) or 0)


def test_the_origin_may_vanish_once_a_copy_is_out_and_one_that_comes_late_needs_only_a_word_of_it(
    machines: Make,
) -> None:
    fleet = machines(4, origin_links=4)  # so that the copy is out long before anybody has all of it
    early = [1, 2, 3]
    fleet.start(*early)
    true(fleet.has_copy, "a copy is out", ALL_S, poll_s=0.2)
    for number in (*early, 4):
        fleet.links.cut(number, 0)
    fleet.start(4)
    for number in early:
        fleet.done(number)
    true(lambda: fleet.links.lost(4), "the late one asks the origin", ALL_S)
    sent = fleet.origin.sent
    fleet.links.shape(0, 1)  # enough for the object's checksum, and minutes for its bytes
    fleet.links.heal(4)
    took = fleet.done(4)
    assert took.get("", 0) == 0 and sum(took.values()) == fleet.size
    assert fleet.origin.sent == sent
