"""`python -m tools.swarm_simulator`: a table of simulated swarms, one row for each number of nodes."""

from __future__ import annotations

import argparse
import gc
import time

from tools.swarm_simulator.simulation import MIB, Simulation, World

SECOND_AT_S = (0.0, 0.05, 0.2, 1.0, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", type=int, nargs="*", default=[2, 4, 8, 16, 32, 1000])
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--object-mib", type=int, default=128)
    parser.add_argument("--chunk-mib", type=int, default=2)
    parser.add_argument("--link-mbit", type=float, default=200, help="of each node, each way")
    parser.add_argument("--origin-mbit", type=float, default=200)
    parser.add_argument("--unpinned", action="store_true", help="no list of members from a workflow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--company", action="store_true", help="a lone node, and one that comes later, with listening and without"
    )
    options = parser.parse_args()
    gc.disable()  # nothing here is freed before its run is over, and the collector would look at all of it
    print(f"{options.objects} x {options.object_mib} MiB in chunks of {options.chunk_mib} MiB, links of "
          f"{options.link_mbit:g} Mb/s both ways, origin {options.origin_mbit:g} Mb/s")  # fmt: skip
    if options.company:
        company(options)
        return
    print(f"{'nodes':>6} {'last S/b':>9} {'median':>7} {'origin S':>9} {'messages':>9} {'took':>7}")
    for nodes in options.nodes:
        started = time.monotonic()
        world = World(
            nodes=nodes,
            objects=options.objects,
            object_bytes=options.object_mib * MIB,
            chunk_bytes=options.chunk_mib * MIB,
            link_bytes_per_s=options.link_mbit * 125_000,
            origin_bytes_per_s=options.origin_mbit * 125_000,
            is_pinned=not options.unpinned,
            seed=options.seed,
        )
        result = Simulation(world).run()
        print(
            f"{nodes:>6} {result.last_x:>9.2f} {result.median_x:>7.2f} {result.origin_x:>9.3f}"
            f" {result.messages_per_s:>7.1f}/s {time.monotonic() - started:>6.1f}s",
            result.counts,
            flush=True,
        )


def company(options: argparse.Namespace) -> None:
    """Print what a node gains that does not listen, and what a second one costs."""
    print(f"{'second after':>13} {'first':>8} {'second':>8} {'first s':>8} {'second s':>9} {'origin S':>9}")
    words = {1.0: "listens", 0.0: "does not"}
    for first_s, second_s, at in [
        (1.0, None, None),
        (0.0, None, None),
        *((1.0, 1.0, at) for at in SECOND_AT_S),
        *((0.0, 1.0, at) for at in SECOND_AT_S),
        *((0.0, 0.0, at) for at in SECOND_AT_S),
    ]:
        world = World(
            nodes=1,
            objects=options.objects,
            object_bytes=options.object_mib * MIB,
            chunk_bytes=options.chunk_mib * MIB,
            link_bytes_per_s=options.link_mbit * 125_000,
            origin_bytes_per_s=options.origin_mbit * 125_000,
            is_pinned=False,
            settle_s=first_s,
            skew_s=0,
            seed=options.seed,
        )
        simulation = Simulation(world)
        (first,) = simulation.nodes.values()
        first.seeds = []
        second = None if at is None else simulation.add("second", at, settle_s=second_s, knows=False)
        origin_x = simulation.run().origin_x
        took = "" if second is None or second.done_at is None or at is None else f"{second.done_at - at:.2f}"
        print(
            f"{'never' if at is None else f'{at:g} s':>13} {words[first_s]:>8} {'' if second_s is None else words[second_s]:>8}"
            f" {first.done_at:>8.2f} {took:>9} {origin_x:>9.3f}"
        )


if __name__ == "__main__":
    main()
