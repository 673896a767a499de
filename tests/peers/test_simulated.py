"""A simulated swarm takes each chunk from the origin once, whatever dies, joins, restarts or is cut off.

The choices are those of the product, the clock is simulated, and chance is seeded: each run of a test is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.peers.swarms import all_chunks, chunks, is_whole, living, when
from tools.swarm_simulator.simulation import MIB, Simulation, World

CHUNKS = 32
SMALL = {"object_bytes": CHUNKS * MIB}


def twice(simulation: Simulation) -> list[tuple[int, int]]:
    """Return the chunks that the origin was asked for more than once."""
    return [chunk for chunk, count in simulation.origin_requests.items() if count > 1]


@pytest.mark.parametrize("nodes", [1, 2, 3, 8, 20])
def test_each_chunk_leaves_the_origin_once(nodes: int) -> None:
    simulation = Simulation(World(nodes, **SMALL))
    result = simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert set(simulation.origin_requests.values()) == {1} and len(simulation.origin_requests) == CHUNKS
    assert result.origin_x == pytest.approx(1.0)


@pytest.mark.parametrize("nodes", [8, 16, 32])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_chunk_leaves_the_origin_once_where_members_are_known_by_gossip_alone(nodes: int, seed: int) -> None:
    simulation = Simulation(World(nodes, is_pinned=False, seed=seed, **SMALL))
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert set(simulation.origin_requests.values()) == {1} and len(simulation.origin_requests) == CHUNKS


def test_each_chunk_of_many_objects_leaves_the_origin_once() -> None:
    simulation = Simulation(World(6, objects=5, object_bytes=20 * MIB))
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert set(simulation.origin_requests.values()) == {1} and len(simulation.origin_requests) == 100


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "bound"), [(8, 1.5), (32, 1.8)])
def test_the_last_node_is_near_the_bound_of_its_own_link(nodes: int, bound: float) -> None:
    result = Simulation(World(nodes)).run()
    assert result.last_x <= bound
    assert result.origin_x <= 1.02


def test_an_origin_that_is_quick_is_not_slowed_down() -> None:
    world = World(8, origin_bytes_per_s=100e6)
    everyone_from_origin_x = world.nodes / 4
    assert Simulation(world).run().last_x <= 1.05 * everyone_from_origin_x


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_home_that_dies_costs_the_origin_only_what_it_had_under_way(share: float) -> None:
    simulation = Simulation(World(8, **SMALL))
    home = simulation.nodes["node-3"]
    begun_elsewhere = set[tuple[int, int]]()

    def die() -> None:
        home.kill()
        begun_elsewhere.update(all_chunks(simulation))

    when(simulation, lambda: len(chunks(home)) >= share * CHUNKS - 0.5, die)
    simulation.run()
    assert not home.is_up
    assert all(map(is_whole, living(simulation))) and len(living(simulation)) == 7
    assert not begun_elsewhere & set(twice(simulation)), "what a living node had was fetched again"
    assert len(twice(simulation)) <= 4  # its own that were under way or had reached nobody


def test_a_late_joiner_takes_nothing_from_the_origin() -> None:
    simulation = Simulation(World(6, **SMALL))
    late = simulation.add("late", at=60.0)
    simulation.run()
    assert late.done_at is not None and is_whole(late)
    assert set(simulation.origin_requests.values()) == {1}


def test_a_node_that_joins_in_the_middle_takes_nothing_twice_from_the_origin() -> None:
    simulation = Simulation(World(6, **SMALL))
    late = simulation.add("late", at=1.5)
    simulation.run()
    assert is_whole(late)
    assert set(simulation.origin_requests.values()) == {1}


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "by gossip"])
def test_what_is_on_a_disk_is_not_fetched_again_after_everybody_restarted(is_pinned: bool) -> None:
    simulation = Simulation(World(8, is_pinned=is_pinned, **SMALL))
    on_disk = set[tuple[int, int]]()

    def restart() -> None:
        on_disk.update(all_chunks(simulation))
        simulation.origin_requests.clear()
        for node in simulation.nodes.values():
            node.kill(for_good=False)
            simulation.network.after(simulation.random.uniform(0.1, 0.8), node.start)

    when(simulation, lambda: len(all_chunks(simulation)) >= CHUNKS // 2, restart)
    simulation.run()
    assert len(on_disk) >= CHUNKS // 2
    assert all(map(is_whole, simulation.nodes.values()))
    assert not on_disk & set(simulation.origin_requests)


def test_a_node_that_lost_its_disk_gets_everything_from_its_neighbours() -> None:
    simulation = Simulation(World(8, **SMALL))
    victim = simulation.nodes["node-2"]

    def lose() -> None:
        simulation.origin_requests.clear()
        victim.kill(for_good=False)
        victim.disk = [set()]
        simulation.network.after(0.5, victim.start)

    when(simulation, lambda: all(len(chunks(node)) > CHUNKS - 3 for node in simulation.nodes.values()), lose)
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert len(simulation.origin_requests) <= 2  # the last chunks, if they had not been out


def cut_in_halves(simulation: Simulation) -> None:
    half = set(list(simulation.nodes)[: len(simulation.nodes) // 2])
    simulation.reaches = lambda client, server: (client in half) == (server in half)
    simulation.cut_unreachable()


@pytest.mark.slow
def test_two_halves_that_cannot_reach_each_other_for_half_a_minute_take_each_chunk_once_each() -> None:
    simulation = Simulation(World(8, object_bytes=600 * MIB))
    simulation.network.at(2.0, lambda: cut_in_halves(simulation))

    def heal() -> None:
        simulation.reaches = lambda _client, _server: True

    simulation.network.at(32.0, heal)
    result = simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert sum(simulation.origin_requests.values()) <= 2 * len(simulation.origin_requests)
    # Healed before the end, so that the halves give each other what each has fetched by itself.
    assert simulation.network.now > 32.0
    assert result.origin_x < 1.99


def unreachable(*pairs: tuple[str, str]) -> Callable[[str, str], bool]:
    return lambda client, server: (client, server) not in pairs


def test_what_a_node_cannot_reach_comes_over_another_one() -> None:
    simulation = Simulation(World(8, **SMALL))
    simulation.reaches = unreachable(("node-1", "node-2"), ("node-5", "node-0"))
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert set(simulation.origin_requests.values()) == {1}


def test_a_node_that_nobody_reaches_costs_the_origin_its_own_chunks_once_more() -> None:
    simulation = Simulation(World(8, **SMALL))
    simulation.reaches = lambda _client, server: server != "node-2"
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert len(twice(simulation)) <= CHUNKS // 8 + 2
    assert sum(simulation.origin_requests.values()) <= CHUNKS + CHUNKS // 8 + 2


def test_the_origin_may_go_once_a_copy_is_out() -> None:
    simulation = Simulation(World(8, **SMALL))

    def go() -> None:
        simulation.origin_up = False

    when(simulation, lambda: len(all_chunks(simulation)) == CHUNKS, go)
    simulation.run()
    assert not simulation.origin_up
    assert all(map(is_whole, simulation.nodes.values()))


def test_members_that_never_start_are_done_without() -> None:
    simulation = Simulation(World(8, **SMALL), absent={"node-4", "node-6"})
    simulation.run()
    assert all(map(is_whole, living(simulation))) and len(living(simulation)) == 6
    assert max(simulation.origin_requests.values()) <= 2


def test_a_zone_is_preferred_to_crossing_into_another() -> None:
    apart = Simulation(World(16, zones=2)).run()
    alike = Simulation(World(16)).run()
    assert apart.origin_x == pytest.approx(1.0)
    assert apart.far_x < 0.45 and alike.far_x == 0  # without a preference a half would cross


def test_the_same_seed_is_the_same_swarm() -> None:
    one, other, third = (Simulation(World(8, seed=seed, **SMALL)).run() for seed in (1, 1, 2))
    assert one == other
    assert one != third


def lone(**world: float) -> Simulation:
    return Simulation(World(1, is_pinned=False, skew_s=0, **SMALL, **world))  # type: ignore[arg-type]


def test_a_lone_node_that_expects_nobody_is_done_a_second_sooner() -> None:
    listens, begins = lone(), lone(settle_s=0)
    listens.run()
    begins.run()
    assert listens.network.now - begins.network.now == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("at", [0.0, 0.05, 0.2, 1.0, 2.0])
def test_one_that_comes_later_is_fed_by_one_that_expected_nobody(at: float) -> None:
    simulation = lone(settle_s=0)
    late = simulation.add("late", at, settle_s=1.0, knows=False)
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert late.done_at is not None
    assert set(simulation.origin_requests.values()) == {1}


@pytest.mark.parametrize("at", [0.0, 0.05, 0.2, 1.0, 2.0])
def test_two_that_wrongly_expect_nobody_take_what_is_under_way_twice(at: float) -> None:
    simulation = lone(settle_s=0)
    simulation.add("late", at, settle_s=0, knows=False)
    simulation.run()
    assert all(map(is_whole, simulation.nodes.values()))
    assert len(twice(simulation)) <= simulation.world.workers
