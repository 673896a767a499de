"""Whatever happens to a swarm, who lives in the end has everything, and the origin was not asked without bound.

Each seed is another swarm with other faults: kills, restarts with and without the disk, late starts, cuts between
nodes, an origin that pauses. All in simulated time, so that a seed that fails fails again.
"""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from tests.peers.swarms import chunks, is_whole, living
from tools.swarm_simulator.simulation import MIB, Node, Simulation, World


def restart(simulation: Simulation, node: Node, pause_s: float, *, keeps_disk: bool) -> None:
    """Kill an agent that is not whole yet and start it again."""
    if node.is_up and node.done_at is None:
        node.kill(for_good=False)
        if not keeps_disk:
            node.disk = [set() for _ in node.disk]
        simulation.network.after(pause_s, node.start)


def cut(simulation: Simulation, pairs: set[tuple[str, str]]) -> None:
    simulation.reaches = lambda client, server: (client, server) not in pairs
    simulation.cut_unreachable()


def set_origin(simulation: Simulation, *, up: bool) -> None:
    simulation.origin_up = up


@pytest.mark.parametrize("seed", range(24))
def test_who_lives_has_everything_in_the_end(seed: int) -> None:
    random = Random(seed)
    count = random.choice([2, 3, 5, 8, 12])
    world = World(
        count,
        objects=random.choice([1, 1, 3]),
        object_bytes=random.choice([10, 30, 60]) * MIB,
        is_pinned=random.random() < 0.6,
        skew_s=random.choice([0.0, 0.3, 4.0]),
        zones=random.choice([1, 2]),
        seed=seed,
    )
    simulation = Simulation(world)
    nodes = list(simulation.nodes.values())
    restarts = 0
    for node in nodes[1:]:  # the first stays, so that there is an end to be had
        at, pause_s = random.uniform(0.2, 8.0), random.uniform(0.1, 3.0)
        match random.choice(["stays", "stays", "dies", "restarts", "loses its disk"]):
            case "dies":
                simulation.network.at(at, node.kill)
            case "restarts":
                restarts += 1
                simulation.network.at(at, partial(restart, simulation, node, pause_s, keeps_disk=True))
            case "loses its disk":
                restarts += 1
                simulation.network.at(at, partial(restart, simulation, node, pause_s, keeps_disk=False))
    if random.random() < 0.4:
        pairs = {(a.name, b.name) for a in nodes for b in nodes if a is not b and random.random() < 0.2}
        simulation.network.at(random.uniform(0.5, 4.0), partial(cut, simulation, pairs))
        simulation.network.at(random.uniform(8.0, 15.0), partial(cut, simulation, set()))
    if random.random() < 0.4:
        at = random.uniform(0.5, 3.0)
        simulation.network.at(at, partial(set_origin, simulation, up=False))
        simulation.network.at(at + 5.0, partial(set_origin, simulation, up=True))
    if random.random() < 0.4:
        simulation.add("late", at=random.uniform(1.0, 10.0))
    simulation.run()
    # Half an hour is the limit of a run, and a hundred times what any of these swarms needs.
    assert simulation.network.now < 300, "nobody chose anything any more"
    assert len(living(simulation)) >= 1
    assert all(map(is_whole, living(simulation)))
    total = sum(len(chunks(node)) for node in living(simulation)[:1])
    assert sum(simulation.origin_requests.values()) <= total * (2 + restarts)
