"""`make bench-fleet`: one dataset on N nodes at once, each with a link of 200 Mb/s both ways, in network namespaces.

Rows: everyone from the origin with our engine; libtorrent 2.x, every node told of all others, web seed on one of them;
ours. `last` is the time until the last node has all, as a multiple of S/b, the time that one link takes for the bytes;
`origin` is what the origin sent, as a multiple of S. Every file is compared with the origin's. Prints tables and
writes build/bench/fleet.json: {"8": {"ours": {"last_x", "origin_x", "cpu_s", "rss_mib"}, …}, …} for one object from
an origin with a link as its nodes have; the other workloads by name under "more".

All nodes, the switch and the origin share this machine's cores: where `cores` comes near their number, the row says
more of the machine than of the protocol. The links are made by this process alone and removed at its end, those of a
run that was killed at the next one's start. Takes root, nginx, iproute2; libtorrent goes into build/bench/libtorrent.

FLEET_RUNS (3): runs, interleaved, of which the median is told, with the least and the most; everyone from the origin
runs once, because its time is the sum of its bytes. FLEET_NODES="2,4,8,16,32", FLEET_ROWS="origin,libtorrent,ours" and
FLEET_WORK="one,many,fast-origin" choose; FLEET_DIR is for the files (/dev/shm, where nothing waits for a disk).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import fleet_links
from tests.bench.fleet_links import Links
from tests.bench.fleet_origin import MIB, Objects, Origin
from tests.bench.fleet_run import ROOT, Failed, Fleet, Outcome

OUT = ROOT / "build" / "bench" / "fleet.json"
TORRENT_HOME = ROOT / "build" / "bench" / "libtorrent"
TORRENT = "libtorrent==2.1.1"
ROWS = ("origin", "libtorrent", "ours")
NODES = (2, 4, 8, 16, 32)
LINK_MBIT = 200


@dataclass(frozen=True)
class Workload:
    name: str
    objects: dict[str, int]
    """Sizes by key, bytes."""
    origin_links: int = 1
    """The origin's link, as a multiple of a node's."""
    link_mbit: int = LINK_MBIT
    """A node's."""

    @property
    def bytes(self) -> int:
        return sum(self.objects.values())

    @property
    def link_s(self) -> float:
        """S/b."""
        return self.bytes * 8 / (self.link_mbit * 1e6)


ONE = {"one.bin": 128 * MIB}
# Larger than what skips the swarm (8 MiB), and no multiple of a range.
MANY = {f"many/{number:02}.bin": 9 * MIB + 12345 for number in range(20)}
WORKLOADS = (
    Workload("one", ONE),
    Workload("many", MANY),
    Workload("fast-origin", ONE, origin_links=4),
    Workload("slow-links", ONE, link_mbit=50),
)


@dataclass
class Cell:
    """The runs of a row."""

    work: Workload
    outcomes: list[Outcome] = field(default_factory=list)
    problem: str = ""

    def json(self) -> dict[str, Any]:
        if self.problem:
            return {"problem": self.problem, "runs": len(self.outcomes)}
        last = [outcome.seconds / self.work.link_s for outcome in self.outcomes]
        origin = [outcome.origin_bytes / self.work.bytes for outcome in self.outcomes]
        return {
            "last_x": round(statistics.median(last), 3),
            "last_x_min": round(min(last), 3),
            "last_x_max": round(max(last), 3),
            "origin_x": round(max(origin), 4),  # the promise is of every run
            "cpu_s": round(statistics.median(outcome.cpu_s for outcome in self.outcomes), 2),
            "cores": round(statistics.median(outcome.cpu_s / outcome.seconds for outcome in self.outcomes), 2),
            "rss_mib": round(max(outcome.rss_mib for outcome in self.outcomes), 1),
            "runs": len(self.outcomes),
            "load": round(max(outcome.load for outcome in self.outcomes), 1),
            "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        }


def torrent_python() -> Path:
    """Install libtorrent where no project depends on it; return the Python that has it."""
    python = TORRENT_HOME / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import libtorrent"], check=False).returncode:
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, TORRENT_HOME], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, TORRENT], check=True)
    return python


def own_folder() -> Path:
    """Create the folder for all files; remove those of runs that were killed."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    base = Path(os.environ.get("FLEET_DIR", memory))
    for folder in base.glob(f"{fleet_links.PREFIX}*"):
        if fleet_links.left_behind(folder.name):
            shutil.rmtree(folder)
    own = base / fleet_links.own_name()
    own.mkdir(mode=0o755)  # nginx drops root
    return own


def measure(fleet: Fleet, work: Workload, nodes: int, rows: Sequence[str], runs: int) -> dict[str, Cell]:
    cells = {row: Cell(work) for row in rows}
    for number in range(runs):
        for row, cell in cells.items():
            if cell.problem or (row == "origin" and number):
                continue
            print(f"{work.name}, {nodes} nodes: run {number + 1} of {runs}: {row}    ", end="\r", file=sys.stderr)
            try:
                cell.outcomes.append(fleet.run(row, nodes, list(work.objects), 60 + 4 * nodes * work.link_s))
            except Failed as failed:
                cell.problem = str(failed)
    return cells


def told(nodes: int, cells: dict[str, Cell]) -> None:
    for row, cell in cells.items():
        figures = cell.json()
        if "problem" in figures:
            print(f"  {nodes:5}  {row:10}  {figures['problem']}")
            continue
        last = f"{figures['last_x']:.2f} ({figures['last_x_min']:.2f}-{figures['last_x_max']:.2f})"
        print(
            f"  {nodes:5}  {row:10} {last:>20} {figures['last_x'] * cell.work.link_s:8.1f} {figures['origin_x']:8.3f}"
            f" {figures['cpu_s']:7.1f} {figures['cores']:6.2f} {figures['rss_mib']:8.0f} {figures['runs']:5}"
            f" {figures['load']:5.1f}",
            flush=True,
        )


def keep(work: str, nodes: int, cells: dict[str, dict[str, Any]]) -> None:
    """Write what was measured to the file, beside what it has of other rows."""
    figures: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    group = figures if work == "one" else figures.setdefault("more", {}).setdefault(work, {})
    group.setdefault(str(nodes), {}).update(cells)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + "\n")


def chosen(name: str, all_of_them: Sequence[str]) -> list[str]:
    return [each for each in os.environ.get(name, ",".join(all_of_them)).split(",") if each]


def main() -> int:
    if problem := fleet_links.missing() or Origin.missing():
        print(f"bench-fleet: {problem}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go, too
    runs = int(os.environ.get("FLEET_RUNS", "3"))
    sizes = [int(each) for each in chosen("FLEET_NODES", [str(each) for each in NODES])]
    rows = chosen("FLEET_ROWS", ROWS)
    names = chosen("FLEET_WORK", [work.name for work in WORKLOADS])
    python = torrent_python() if "libtorrent" in rows else None
    folder = own_folder()
    failed = 0
    links = None
    try:
        objects = Objects(folder / "objects")
        works = [work for work in WORKLOADS if work.name in names]
        for key, size in {key: size for work in works for key, size in work.objects.items()}.items():
            objects.add(key, size)
        links = Links(max(sizes), LINK_MBIT)
        fleet = Fleet(folder, objects, links, python)
        print(f"{platform.machine()}, {os.cpu_count()} cores shared by all nodes, Linux {platform.release()}")
        for work in works:
            for number in range(max(sizes) + 1):
                links.shape(number, work.link_mbit * (1 if number else work.origin_links))
            print(
                f"\n{work.name}: {len(work.objects)} objects, {work.bytes / MIB:.0f} MiB, links {work.link_mbit} Mb/s, origin"
                f" {work.link_mbit * work.origin_links} Mb/s, S/b {work.link_s:.2f} s"
            )
            print("  nodes  row        last (min-max), S/b  seconds   origin   CPU-s  cores  RSS MiB  runs  load")
            for nodes in sizes:
                cells = measure(fleet, work, nodes, rows, runs)
                told(nodes, cells)
                failed |= any(cell.problem for cell in cells.values())
                keep(work.name, nodes, {row: cell.json() for row, cell in cells.items()})
    finally:
        if links is not None:
            links.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"figures in {OUT.relative_to(ROOT)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
