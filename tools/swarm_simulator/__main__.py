"""`python -m tools.swarm_simulator`: a table of simulated swarms, one row for each number of nodes.

Beside each row stands what `make bench-fleet` measured for the same, as far as build/bench/fleet.json has it. The
figures of the simulator go into build/bench/fleet-simulated.json, where those of earlier runs stay.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

from tools.swarm_simulator.simulation import MIB, Result, Simulation, World

BENCH = Path(__file__).parents[2] / "build" / "bench"
SECOND_AT_S = (0.0, 0.05, 0.2, 1.0, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", type=int, nargs="*", default=[2, 4, 8, 16, 32, 1000])
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--object-mib", type=int, default=128)
    parser.add_argument("--chunk-mib", type=int, default=0, help="0: as the agents cut an object of that size")
    parser.add_argument("--link-mbit", type=float, default=200, help="of each node, each way")
    parser.add_argument("--origin-mbit", type=float, default=200)
    parser.add_argument("--unpinned", action="store_true", help="no list of members from a workflow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--company", action="store_true", help="a lone node, and one that comes later, with listening and without"
    )
    options = parser.parse_args()
    gc.disable()  # nothing here is freed before its run is over, and the collector would look at all of it
    chunk_mib = World(0, object_bytes=options.object_mib * MIB, chunk_bytes=options.chunk_mib * MIB).chunk_bytes / MIB
    title = (
        f"{options.objects} x {options.object_mib} MiB in chunks of {chunk_mib:g} MiB, links of {options.link_mbit:g} Mb/s"
        f" both ways, origin {options.origin_mbit:g} Mb/s{', members by gossip alone' if options.unpinned else ''}"
    )
    print(title)
    if options.company:
        company(options)
        return
    benched = bench_of(options)
    print(f"{'nodes':>6} {'last S/b':>9} {'median':>7} {'origin S':>9} {'messages':>9} {'took':>7} {'bench-fleet':>20}")
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
            f" {result.messages_per_s:>7.1f}/s {time.monotonic() - started:>6.0f}s {beside(benched.get(str(nodes)), result):>20}",
            result.counts,
            flush=True,
        )
        keep(f"{title}, seed {options.seed}", nodes, result)


def bench_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows that `make bench-fleet` measured for this, by number of nodes; none where it measured others."""
    file = BENCH / "fleet.json"
    if options.unpinned or not file.exists():
        return {}
    measured = json.loads(file.read_text())
    match options.objects, options.object_mib, options.link_mbit, options.origin_mbit:
        case 1, 128, 200, 200:
            return measured  # type: ignore[no-any-return]
        case 1, 128, 200, 800:
            return measured.get("more", {}).get("fast-origin", {})  # type: ignore[no-any-return]
        case 1, 128, 50, 50:
            return measured.get("more", {}).get("slow-links", {})  # type: ignore[no-any-return]
        case 20, 9, 200, 200:
            return measured.get("more", {}).get("many", {})  # type: ignore[no-any-return]
    return {}


def beside(row: dict[str, Any] | None, result: Result) -> str:
    """Return what was measured, and by how much the simulator differs from it."""
    measured = (row or {}).get("ours", {}).get("last_x")
    return "" if measured is None else f"{measured:.2f} ({100 * (result.last_x / measured - 1):+.0f} %)"


def keep(title: str, nodes: int, result: Result) -> None:
    file = BENCH / "fleet-simulated.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kept.setdefault(title, {})[str(nodes)] = {
        "last_x": round(result.last_x, 3),
        "median_x": round(result.median_x, 3),
        "origin_x": round(result.origin_x, 4),
        "messages_per_node_s": round(result.messages_per_s, 1),
        "requests": result.counts,
    }
    BENCH.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n")


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
