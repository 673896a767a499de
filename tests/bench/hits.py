"""What something costs cache hits: hits one by one with it and without it, in one stack, in turn.

Blocks of hits alternate (with, without, without, with, …), so that what the machine does meanwhile falls on both.
`python -m tests.bench.hits viewers` asks it of 50 viewers of the operator's page; `make bench-observing` of traces and
scrapes. Prints a table and writes build/bench/hits-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.bench import cpu
from tests.bench.observers import collector, scraped
from tests.bench.page import viewers
from tests.bench.release_clock import Clock
from tools.stack import Stack, control_plane
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods, gated
from tools.stack.ports import free

_ROOT = Path(__file__).parents[2]
_NAMESPACE = control_plane.USER_NAMESPACE
_SIZES = [700_000, 300_000, 1_000]
_PAUSE_S = 0.25
"""Between one Pod's end and the next: its own end is not the next one's delay."""
_PATIENCE_S = 300
_WARM_UP = 2
"""Hits at the start of a block that are not counted: a process that was just started, or viewers that just came."""
_RESAMPLES = 2000
_OURS = ("operator", "agents")

Condition = Callable[[Stack], AbstractContextManager[None]]


@dataclass
class Side:
    """The hits of one condition."""

    ms: list[float] = field(default_factory=list)
    """Of each hit, from the Pod's creation to bound."""
    cpu_ms: list[float] = field(default_factory=list)
    """CPU of operator and agents a hit, of each block."""


def measure(stack: Stack, with_it: Condition, without: Condition, hits: int, block: int) -> tuple[Side, Side]:
    """Return the hits with it and without it. hits: of each side; block: hits before the sides change."""
    runner = _Runner(stack)
    sides = (Side(), Side())
    for number in range(-(-hits // block)):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            with (with_it, without)[which](stack):
                runner.hits(_WARM_UP)
                before = cpu.seconds(stack.processes)
                sides[which].ms += runner.hits(block)
                spent = cpu.between(before, cpu.seconds(stack.processes), block)
                sides[which].cpu_ms.append(sum(spent[name] for name in _OURS))
            print(
                f"hits, {('with', 'without')[which]}: {len(sides[which].ms)}: p50 {_p50(sides[which].ms[-block:]):.0f} ms",
                file=sys.stderr,
                flush=True,
            )
    return sides


def tell(name: str, sides: tuple[Side, Side]) -> dict[str, object]:
    """Print the two sides and their difference; return the figures."""
    on, off = sides
    print(
        f"\n{name:24} {'without':>9} {'with':>9} {'change':>8}   {len(on.ms)} hits each, load {os.getloadavg()[0]:.1f}"
    )
    rows = {
        "p50, ms": (_p50(off.ms), _p50(on.ms)),
        "p90, ms": (_part(off.ms, 0.9), _part(on.ms, 0.9)),
        "CPU a hit, ms": (statistics.median(off.cpu_ms), statistics.median(on.cpu_ms)),
    }
    for title, (without, with_it) in rows.items():
        print(f"{title:24} {without:9.1f} {with_it:9.1f} {100 * (with_it / without - 1):+7.1f}%")
    low, high = _interval(on.ms, off.ms)
    print(f"the change of p50 is between {low:+.1f}% and {high:+.1f}% (95 %, by resampling the hits)")
    return {"with": vars(on), "without": vars(off), "p50_change_percent": [low, high]}


class _Runner:
    def __init__(self, stack: Stack) -> None:
        self._pods = Pods(stack.api, _NAMESPACE)
        self._clock = Clock(stack.kubeconfig, _NAMESPACE, control_plane.SEATS_NAMESPACE)
        self._bucket = Bucket(stack.s3, "bench")
        self._bucket.fill("weights", _SIZES)
        self._count = 0
        for node in stack.nodes:  # every Pod that is measured finds its data, wherever the scheduler sends it
            spec = {"nodeSelector": {"kubernetes.io/hostname": node}}
            self._pods.create(gated(f"warm-{node}", self._bucket.uri("weights"), spec=spec))
            self._pods.wait_bound(f"warm-{node}")

    def hits(self, count: int) -> list[float]:
        """Return the milliseconds of so many hits, one after the other."""
        found = []
        for _ in range(count):
            name = f"hit-{self._count:04}"
            self._count += 1
            sent = time.time()
            uid = str(self._pods.create(gated(name, self._bucket.uri("weights"), gpus=1))["metadata"]["uid"])
            self._clock.wait([uid], "bound", _PATIENCE_S)
            self._pods.delete(name)
            self._clock.wait([uid], "gone", _PATIENCE_S)
            found.append((self._clock.times[uid].bound - sent) * 1e3)
            time.sleep(_PAUSE_S)
        return found


@contextmanager
def nothing(_stack: Stack) -> Iterator[None]:
    yield


def observed(endpoint: str) -> Condition:
    """Return the condition that every process sends traces there and is scraped; without endpoint, neither."""

    @contextmanager
    def condition(stack: Stack) -> Iterator[None]:
        for part in (stack.operator, *stack.agents.values()):
            part.restart(kill=False, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        parts = (stack.operator, *stack.agents.values())
        with scraped([part.probe_port for part in parts] if endpoint else []):
            yield

    return condition


def watched(port: int, count: int) -> Condition:
    """Return the condition that so many viewers keep the operator's page open."""

    @contextmanager
    def condition(_stack: Stack) -> Iterator[None]:
        with viewers(port, count):
            yield

    return condition


def of_observers(hits: int, block: int, nodes: int = 2) -> dict[str, object]:
    """Measure and tell what traces and scrapes cost."""
    report = Console(stderr=True).print
    with collector() as endpoint, Stack(node_count=nodes, report=report) as stack:
        return tell("traces and scrapes", measure(stack, observed(endpoint), observed(""), hits, block))


def of_viewers(hits: int, block: int, count: int, nodes: int = 2) -> dict[str, object]:
    """Measure and tell what viewers of the page cost."""
    port = free(1)[0]
    page = {"KUBE_CACHE_OPERATOR__PAGE_ADDRESS": f":{port}"}
    with Stack(node_count=nodes, report=Console(stderr=True).print, operator_env=page) as stack:
        return tell(f"{count} viewers", measure(stack, watched(port, count), nothing, hits, block))


def _interval(on: list[float], off: list[float]) -> tuple[float, float]:
    """Return between what the change of the median lies, percent: what is told of a busy machine must say how sure."""
    chance = random.Random(1)
    changes = sorted(
        100 * (_p50(chance.choices(on, k=len(on))) / _p50(chance.choices(off, k=len(off))) - 1)
        for _ in range(_RESAMPLES)
    )
    return changes[int(_RESAMPLES * 0.025)], changes[int(_RESAMPLES * 0.975)]


def _p50(values: list[float]) -> float:
    return statistics.median(values)


def _part(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hits", description=__doc__)
    parser.add_argument("what", choices=("viewers", "observers"))
    parser.add_argument("--hits", type=int, default=200, help="of each side (default 200)")
    parser.add_argument("--block", type=int, default=25, help="hits before the sides change (default 25)")
    parser.add_argument("--viewers", type=int, default=50, help="of the page (default 50)")
    arguments = parser.parse_args()
    if arguments.what == "viewers":
        found = of_viewers(arguments.hits, arguments.block, arguments.viewers)
    else:
        found = of_observers(arguments.hits, arguments.block)
    out = _ROOT / "build" / "bench" / f"hits-{arguments.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {out.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core crashes at interpreter exit now and then.
    os._exit(0)
