"""`python -m tools.swarm_simulator`: a table of simulated swarms, one row for each number of nodes."""

from __future__ import annotations

import argparse
import gc
import time

from tools.swarm_simulator.simulation import MIB, Simulation, World


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
    options = parser.parse_args()
    gc.disable()  # nothing here is freed before its run is over, and the collector would look at all of it
    print(f"{options.objects} x {options.object_mib} MiB in chunks of {options.chunk_mib} MiB, links of "
          f"{options.link_mbit:g} Mb/s both ways, origin {options.origin_mbit:g} Mb/s")  # fmt: skip
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


if __name__ == "__main__":
    main()
