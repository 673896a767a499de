"""`make bench-engine`: the transfer engine against the fastest clients there are, on one machine, in one run.

Clients and server share the cores, so a figure in GB/s says as much about the machine as about the client: compare
columns of one run, and CPU seconds per GB (10^9 bytes), which travel. Rounds are interleaved, each file is compared
with its source, and what is printed is the median with the least and the most. Prints a table and writes
build/bench/engine.json.

BENCH_SCALE=0.1 shrinks every workload, BENCH_ROUNDS sets the rounds (5), BENCH_ONLY="disk-2gib,tls" and
BENCH_CLIENTS="ours,awscrt" choose, BENCH_DIR is where the files go (build/bench/data).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from awscrt import checksums

from tests.bench.engine_clients import peak_rss_mib
from tests.bench.engine_origin import CAP, MIB, Origin
from tools.servers import build

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "bench" / "engine.json"
CLIENTS = ("ours", "awscrt", "s5cmd", "obstore", "boto3")
KEPT = {"PATH", "HOME", "PYTHONPATH", "LANG", "OTEL_EXPORTER_OTLP_ENDPOINT"}
GB = 1e9


@dataclass(frozen=True)
class Workload:
    name: str
    objects: dict[str, int]
    port: str = "plain"
    disk: bool = True
    connections: int = 8
    clients: tuple[str, ...] = CLIENTS

    @property
    def bytes(self) -> int:
        return sum(self.objects.values())


@dataclass
class Cell:
    """A client's rounds at a workload."""

    gbps: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    problem: str = ""

    def json(self) -> dict[str, Any]:
        if self.problem or not self.gbps:
            return {"problem": self.problem or "not run"}
        return {
            "gbps": statistics.median(self.gbps),
            "gbps_min": min(self.gbps),
            "gbps_max": max(self.gbps),
            "durable_gbps": statistics.median(self.durable),
            "durable_gbps_min": min(self.durable),
            "durable_gbps_max": max(self.durable),
            "cpu_s_per_gb": statistics.median(self.cpu),
            "server_cpu_s_per_gb": statistics.median(self.server_cpu),
            "rss_mib": max(self.rss),
            "rounds": len(self.gbps),
        }


def workloads(scale: float) -> list[Workload]:
    two = {"two.bin": max(64, int(2048 * scale)) * MIB}
    shards = {f"shards/s{k:03}": 128 * MIB for k in range(max(2, int(70 * scale)))}
    small = {f"small/f{k:05}": MIB for k in range(max(32, int(2000 * scale)))}
    return [
        Workload("disk-2gib", two),
        Workload("disk-70x128mib", shards),
        Workload("disk-2000x1mib", small, connections=16),  # what the engine starts with for many small objects
        Workload("discard-2gib", two, disk=False),
        Workload("capped-64", two, port="capped", disk=False, connections=64, clients=("ours", "awscrt", "obstore")),
        Workload("tls-discard-2gib", two, port="tls", disk=False),
    ]


class Bench:
    def __init__(self, origin: Origin, folder: Path) -> None:
        self.origin = origin
        self.folder = folder
        self.work = folder / "files-0"
        self._rounds = 0

    def round(self, work: Workload, client: str, cell: Cell) -> None:
        self._clear()
        os.sync()
        before = self.origin.cpu_s()
        run = self._s5cmd if client == "s5cmd" else self._python
        try:
            result = run(work, client)
        except (subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError) as error:
            stderr = getattr(error, "stderr", b"") or b""
            cell.problem = (stderr.decode(errors="replace").strip().splitlines() or [str(error)])[-1][:160]
            return
        server = self.origin.cpu_s() - before
        if work.disk:
            self._compare(work)
        gigabytes = work.bytes / GB
        cell.gbps.append(gigabytes / result["seconds"])
        cell.durable.append(gigabytes / (result["seconds"] + result["sync_s"]))
        cell.cpu.append(result["cpu_s"] / gigabytes)
        cell.server_cpu.append(server / gigabytes)
        cell.rss.append(result["rss_mib"])

    def job(self, work: Workload, client: str) -> str:
        """Return what a client is to fetch, as engine_clients takes it."""
        fields = {
            "client": client,
            "endpoint": self._endpoint(work, client),
            "objects": work.objects,
            "folder": str(self.work) if work.disk else "",
            "connections": work.connections,
            "ca": str(self.origin.ca),
        }
        return json.dumps(fields)

    def _clear(self) -> None:
        """Create a new folder. The last round's files are truncated, and deleted at the end only.

        For a minute ext4 passes over the inodes of deleted files one by one, with the folder locked; with thousands of
        files that would be half of the measured time.
        """
        for path in self.work.glob("*"):
            os.truncate(path, 0)
        self._rounds += 1
        self.work = self.folder / f"files-{self._rounds}"
        self.work.mkdir(parents=True)

    def _python(self, work: Workload, client: str) -> dict[str, float]:
        command = [sys.executable, "-m", "tests.bench.engine_clients", self.job(work, client)]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(work, client), capture_output=True, check=True, timeout=300
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def _s5cmd(self, work: Workload, client: str) -> dict[str, float]:
        binary = str(build.ensure(["s5cmd"])["s5cmd"])
        target = str(self.work) if work.disk else ""
        script = self.folder / "s5cmd.txt"
        if work.disk:
            lines = [f"cp s3://bkt/{key} {target}/{key.replace('/', '_')}" for key in work.objects]
        else:
            lines = [f"cat s3://bkt/{key}" for key in work.objects]
        script.write_text("\n".join(lines) + "\n")
        command = [
            binary,
            "--endpoint-url",
            self._endpoint(work, client),
            "--no-verify-ssl",
            "--log",
            "error",
            "run",
            str(script),
        ]
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = 0.0
        with subprocess.Popen(
            command, env=self.environment(work, client), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            while process.poll() is None:
                # The kernel's own figure for a child (ru_maxrss) begins at its parent's size.
                peak = max(peak, peak_rss_mib(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
            fetched = time.perf_counter()
            assert process.stderr is not None
            stderr = process.stderr.read()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=stderr)
        if work.disk:
            subprocess.run(["sync", "-f", target], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "seconds": fetched - started,
            "sync_s": time.perf_counter() - fetched if work.disk else 0.0,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "rss_mib": peak,
        }

    def _endpoint(self, work: Workload, client: str) -> str:
        port = work.port
        if client != "ours":
            port = {"plain": "peers", "tls": "peers_tls", "capped": "peers_capped"}[port]
        if work.port == "tls":
            return f"https://localhost:{self.origin.port[port]}"
        return f"http://127.0.0.1:{self.origin.port[port]}"

    def environment(self, work: Workload, client: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in KEPT}
        environment = {
            **kept,
            "AWS_ACCESS_KEY_ID": "A" * 20,
            "AWS_SECRET_ACCESS_KEY": "x" * 40,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": self._endpoint(work, client),
        }
        if work.port == "tls" and client != "s5cmd":
            environment["AWS_CA_BUNDLE"] = str(self.origin.ca)
        return environment

    def _compare(self, work: Workload) -> None:
        for key, size in work.objects.items():
            path = self.work / key.replace("/", "_")
            crc = 0
            with path.open("rb", buffering=0) as handle:
                while piece := handle.read(MIB):
                    crc = checksums.crc64nvme(piece, crc)
            if path.stat().st_size != size or crc != self.origin.crc[key]:
                raise SystemExit(f"{work.name}: {key} is not what the server has")


def measure_limits(folder: Path) -> dict[str, float]:
    """What the machine can do at most: direct writes by fio, loopback by iperf3; 0 where the tool is missing."""
    limits = {"fio_direct_gbps": 0.0, "loopback_gbps": 0.0}
    if fio := shutil.which("fio"):
        command = [
            *(fio, "--name=w", f"--directory={folder}", "--rw=write", "--bs=8M", "--size=1G", "--direct=1"),
            *("--ioengine=libaio", "--iodepth=16", "--end_fsync=1", "--output-format=json"),
        ]
        done = subprocess.run(command, capture_output=True, check=True)
        limits["fio_direct_gbps"] = json.loads(done.stdout)["jobs"][0]["write"]["bw_bytes"] / GB
    if iperf := shutil.which("iperf3"):
        with subprocess.Popen([iperf, "-s", "-1", "-p", "5299", "-B", "127.0.0.1"], stdout=subprocess.DEVNULL):
            time.sleep(0.3)
            done = subprocess.run(
                [iperf, "-c", "127.0.0.1", "-p", "5299", "-t", "3", "-J"], capture_output=True, check=True
            )
        limits["loopback_gbps"] = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8 / GB
    return limits


def introduce(limits: dict[str, float]) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores shared by client and server, Linux {platform.release()}")
    print(
        f"direct writes by fio {limits['fio_direct_gbps']:.2f} GB/s, loopback by iperf3 {limits['loopback_gbps']:.2f} GB/s"
        " (0: not installed)"
    )


def table(work: Workload, cells: dict[str, Cell], limits: dict[str, float]) -> None:
    print(f"\n{work.name}: {len(work.objects)} objects, {work.bytes / GB:.2f} GB, {work.connections} connections")
    print(
        f"  {'client':8} {'GB/s (min-max)':>20} {'durable (min-max)':>20} {'CPU-s/GB':>9} {'+server':>8} {'RSS MiB':>8}"
    )
    for client, cell in cells.items():
        figures = cell.json()
        if "problem" in figures:
            print(f"  {client:8} {figures['problem']}")
            continue
        rate = f"{figures['gbps']:.2f} ({figures['gbps_min']:.2f}-{figures['gbps_max']:.2f})"
        durable = f"{figures['durable_gbps']:.2f} ({figures['durable_gbps_min']:.2f}-{figures['durable_gbps_max']:.2f})"
        both = figures["cpu_s_per_gb"] + figures["server_cpu_s_per_gb"]
        print(
            f"  {client:8} {rate:>20} {durable:>20} {figures['cpu_s_per_gb']:9.2f} {both:8.2f} {figures['rss_mib']:8.0f}"
        )
    _summary(work, cells, limits)
    sys.stdout.flush()


def _summary(work: Workload, cells: dict[str, Cell], limits: dict[str, float]) -> None:
    mine = cells["ours"].json() if "ours" in cells else {}
    peers = [figures for name, cell in cells.items() if name != "ours" and "problem" not in (figures := cell.json())]
    if "durable_gbps" not in mine:
        return
    comparisons = []
    if peers:
        best = max(peers, key=lambda figures: figures["durable_gbps"])
        thrifty = min(figures["cpu_s_per_gb"] for figures in peers)
        comparisons.append(f"{mine['durable_gbps'] / best['durable_gbps']:.2f} x the best peer's durable rate")
        comparisons.append(f"{mine['cpu_s_per_gb'] / thrifty:.2f} x the thriftiest peer's CPU")
    if work.disk and limits["fio_direct_gbps"]:
        comparisons.append(f"{mine['durable_gbps'] / limits['fio_direct_gbps']:.0%} of fio")
    if not work.disk and limits["loopback_gbps"]:
        comparisons.append(f"{mine['gbps'] / limits['loopback_gbps']:.0%} of loopback")
    if work.port == "capped":
        comparisons.append(f"{mine['gbps'] / (work.connections * CAP / GB):.0%} of the ceiling")
    print(f"  ours: {', '.join(comparisons)}")


def main() -> int:
    if problem := Origin.missing():
        print(f"bench-engine: {problem}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nginx and its gigabytes of memory go, too
    scale = float(os.environ.get("BENCH_SCALE", "1"))
    rounds = int(os.environ.get("BENCH_ROUNDS", "5"))
    only = os.environ.get("BENCH_ONLY", "")
    clients = tuple(os.environ.get("BENCH_CLIENTS", ",".join(CLIENTS)).split(","))
    chosen = [work for work in workloads(scale) if not only or work.name in only.split(",")]
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(os.environ.get("BENCH_DIR", str(ROOT / "build" / "bench" / "data")))
    folder.mkdir(parents=True, exist_ok=True)
    origin = Origin(Path(tempfile.mkdtemp(prefix="kube-cache-bench-", dir=memory)))
    results: dict[str, dict[str, Cell]] = {}
    try:
        for key, size in {key: size for work in chosen for key, size in work.objects.items()}.items():
            origin.add(key, size)
        origin.start()
        limits = measure_limits(folder)
        introduce(limits)
        bench = Bench(origin, folder)
        for work in chosen:
            cells = results[work.name] = {client: Cell() for client in work.clients if client in clients}
            for number in range(rounds):
                for client, cell in cells.items():
                    if not cell.problem:
                        print(
                            f"{work.name}: round {number + 1} of {rounds}: {client}   ",
                            end="\r",
                            file=sys.stderr,
                            flush=True,
                        )
                        bench.round(work, client, cell)
            table(work, cells, limits)
    finally:
        origin.stop()
        shutil.rmtree(folder, ignore_errors=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figures = {name: {client: cell.json() for client, cell in cells.items()} for name, cells in results.items()}
    OUT.write_text(json.dumps({**figures, "machine": {**limits, "cores": os.cpu_count(), "scale": scale}}, indent=1))
    print(f"\n{OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
