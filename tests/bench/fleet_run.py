"""One run of the fleet's bench: so many nodes, one way to get the bytes, one clock, every file compared.

The clock begins when all processes are ready and are told to go, and ends when the last node says that it has all. Each
of them seeds on until then. CPU is of the agents alone, over that time; memory is the peak of the greatest of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kube_cache.peers.tokens import Mint
from tests.bench.engine_clients import peak_rss_mib
from tests.bench.fleet_agent import Peers, snapshot_of
from tests.bench.fleet_links import Links
from tests.bench.fleet_origin import BUCKET, Objects, Origin
from tools.stack.pki import Authority

ROOT = Path(__file__).parents[2]
_PORT = 9467
_READY_S = 180
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A node ended or took too long; the message says which and why."""


@dataclass(frozen=True)
class Outcome:
    seconds: float
    """From the word to go to the last node's end."""
    origin_bytes: int
    cpu_s: float
    rss_mib: float
    load: float
    """Of the machine in the minute before."""


class Fleet:
    def __init__(self, folder: Path, objects: Objects, links: Links, torrent_python: Path | None) -> None:
        """folder: for the nodes' files. torrent_python: of the environment that has libtorrent."""
        self._folder = folder
        self._objects = objects
        self._links = links
        self._torrent_python = torrent_python
        self._torrents: dict[str, Path] = {}
        """By name: of an object, or of the folder of several."""
        self._authority = Authority(folder / "pki")
        self._token_keys = self._authority.token_key("operator")
        self._mint = Mint(self._token_keys.key.read_bytes())

    def run(self, row: str, nodes: int, keys: Sequence[str], limit_s: float) -> Outcome:
        """Raises Failed."""
        numbers = range(1, nodes + 1)
        folders = [self._folder / str(number) for number in numbers]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        load = os.getloadavg()[0]
        self._touch(nodes * sum(self._objects.size[key] for key in keys))
        commands = [self.command(row, nodes, number, keys) for number in numbers]
        origin = Origin(self._folder / "origin", self._objects, self._links.inside(0))
        try:
            with self._agents(commands) as agents:
                seconds, cpu_s = _timed(agents, limit_s, self._folder)
                rss = max(peak_rss_mib(agent.pid) for agent in agents)
        finally:
            sent = origin.stop()
        for number, folder in zip(numbers, folders, strict=True):
            for key in keys:
                if self._objects.differ(key, folder / key):
                    raise Failed(f"node {number}: {key} is not what the origin has")
            shutil.rmtree(folder)
        return Outcome(seconds, sent, cpu_s, rss, load)

    def _touch(self, size: int) -> None:
        """Write as many bytes as the nodes will, and remove them again.

        In a virtual machine memory that was never written costs a fault in the host, 4 KiB at a time: up to a second of
        CPU for each GiB, as much as all else that a node does. Memory that was freed a moment ago has been paid for.
        """
        file = self._folder / "touched"
        piece = bytes(4 << 20)
        with file.open("wb", buffering=0) as touched:
            for _ in range(-(-size // len(piece))):
                touched.write(piece)
        file.unlink()

    def command(self, row: str, nodes: int, number: int, keys: Sequence[str]) -> list[str]:
        """Return the command of a node, which runs on the node. nodes: of the whole fleet."""
        folder = str(self._folder / str(number))
        job: dict[str, Any]
        if row == "libtorrent":
            assert self._torrent_python is not None
            name = keys[0].partition("/")[0]
            job = {
                "torrent": str(self._torrent(name)),
                "folder": folder,
                "address": self._links.address(number),
                "peers": [self._links.address(other) for other in range(1, nodes + 1) if other != number],
                "web_seed": f"http://{self._links.address(0)}/{BUCKET}/{'' if len(keys) > 1 else name}"
                if number == 1
                else "",
            }
            program = [str(self._torrent_python), str(ROOT / "tests/bench/fleet_torrent.py")]
        else:
            objects = {key: [self._objects.size[key], self._objects.etag(key)] for key in keys}
            peers = self._peers(nodes, number, keys).json() if row == "ours" else None
            job = {"bucket": BUCKET, "objects": objects, "folder": folder, "peers": peers}
            program = [sys.executable, "-m", "tests.bench.fleet_agent"]
        return [*self._links.inside(number), *program, json.dumps(job)]

    def _peers(self, nodes: int, number: int, keys: Sequence[str]) -> Peers:
        name = f"node-{number}"
        pair = self._authority.node(name)
        return Peers(
            node=name,
            members={f"node-{other}": f"{self._links.address(other)}:{_PORT}" for other in range(1, nodes + 1)},
            ca=str(self._authority.certificate),
            certificate=str(pair.certificate),
            key=str(pair.key),
            token_keys=str(self._token_keys.certificate),
            token=self._mint.token(snapshot_of(keys), name, time.time()),
        )

    def _torrent(self, name: str) -> Path:
        if name not in self._torrents:
            path = self._folder / f"{name}.torrent"
            job = {"torrent": str(path), "source": str(self._objects.path(name))}
            program = [str(self._torrent_python), str(ROOT / "tests/bench/fleet_torrent.py"), json.dumps(job)]
            subprocess.run(program, check=True)
            self._torrents[name] = path
        return self._torrents[name]

    @contextlib.contextmanager
    def _agents(self, commands: Sequence[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
        agents: list[subprocess.Popen[str]] = []
        try:
            for number, command in enumerate(commands, 1):
                agents.append(self.start(number, command))
            yield agents
        finally:
            end(agents)

    def start(self, number: int, command: list[str]) -> subprocess.Popen[str]:
        """Start a node's process; what it logs goes to `log`."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "AWS_ACCESS_KEY_ID": "A" * 20,
            "AWS_SECRET_ACCESS_KEY": "x" * 40,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": f"http://{self._links.address(0)}",
        }
        with self.log(number).open("w") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the bench, which then ends them
            )

    def log(self, number: int) -> Path:
        return self._folder / f"{number}.log"


def end(agents: Sequence[subprocess.Popen[str]]) -> None:
    """Kill processes, all at once, and wait for their ends."""
    for agent in agents:
        agent.kill()
    for agent in agents:
        agent.wait()
        for pipe in (agent.stdin, agent.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _timed(agents: Sequence[subprocess.Popen[str]], limit_s: float, logs: Path) -> tuple[float, float]:
    """Say go once all are ready; return seconds to the last one's end, and the agents' CPU seconds in that time."""
    for _ in _lines(agents, time.monotonic() + _READY_S, logs):
        pass
    before = sum(_cpu_s(agent.pid) for agent in agents)
    began = time.monotonic()
    for agent in agents:
        assert agent.stdin is not None
        agent.stdin.write("go\n")
        agent.stdin.flush()
    ends = [json.loads(line)["done"] for line in _lines(agents, began + limit_s, logs)]
    return max(ends) - began, sum(_cpu_s(agent.pid) for agent in agents) - before


def _lines(agents: Sequence[subprocess.Popen[str]], deadline: float, logs: Path) -> Iterator[str]:
    """Yield one line of each, as they come."""
    waited: dict[IO[str], int] = {agent.stdout: number for number, agent in enumerate(agents, 1) if agent.stdout}
    while waited:
        ready, _, _ = select.select(list(waited), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise Failed(f"{len(waited)} of {len(agents)} nodes took too long: {sorted(waited.values())[:8]}")
        for pipe in ready:
            number = waited.pop(pipe)
            if not (line := pipe.readline()):
                last = ((logs / f"{number}.log").read_text().strip().splitlines() or [""])[-1][:200]
                raise Failed(f"node {number} ended with {agents[number - 1].wait()}: {last}")
            yield line


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
