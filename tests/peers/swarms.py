"""Small swarms in simulated time, for tests: what is done to them, and what the origin was asked for."""

from __future__ import annotations

from collections.abc import Callable

from tools.swarm_simulator.simulation import Node, Simulation


def when(simulation: Simulation, is_so: Callable[[], bool], act: Callable[[], None]) -> None:
    """Act once, as soon as a condition holds; looked at 100 times a simulated second."""

    def look() -> None:
        if is_so():
            act()
        else:
            simulation.network.after(0.01, look)

    simulation.network.at(0.01, look)


def chunks(node: Node) -> set[tuple[int, int]]:
    """Return the (object, chunk) pairs on the disk of a node."""
    return {(number, chunk) for number, has in enumerate(node.disk) for chunk in has}


def all_chunks(simulation: Simulation) -> set[tuple[int, int]]:
    """Return what is on the disk of any node that lives."""
    return set().union(*(chunks(node) for node in simulation.nodes.values() if node.is_up))


def living(simulation: Simulation) -> list[Node]:
    return [node for node in simulation.nodes.values() if node.is_up]


def is_whole(node: Node) -> bool:
    return len(chunks(node)) == node.world.objects * -(-node.world.object_bytes // node.world.chunk_bytes)
