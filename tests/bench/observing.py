"""`make bench-observing`: what it costs to be watched: traces sent to a collector, and metrics scraped, on and off.

Downloads by the engine, and cache hits on the whole stack, with and without in turn, in one process or stack. Logs and
the counting of metrics are on in both: no setting ends them. The collector drops what it gets; its CPU is not counted
but comes from the same cores. Of a download the throughput is that until it has landed, as its Pod sees it; the CPU is
all, the last spans included. Prints tables of medians and writes build/bench/observing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import hits
from tests.bench.engine import Bench, Workload, workloads
from tests.bench.engine_origin import Origin
from tests.bench.observers import collector

_ROOT = Path(__file__).parents[2]
_OUT = _ROOT / "build" / "bench" / "observing.json"
_WORKLOADS = ("disk-2gib", "disk-2000x1mib", "tls-discard-2gib")
_FIGURES = (("gbps", "GB/s"), ("cpu_s_per_gb", "CPU-s/GB"))


def main() -> int:
    arguments = _arguments()
    found: dict[str, object] = {}
    if arguments.pairs:
        if problem := Origin.missing():
            print(f"bench-observing: {problem}", file=sys.stderr)
            return 1
        found["downloads"] = _downloads(arguments.scale, arguments.seconds, arguments.pairs, arguments.only)
    if arguments.hits:
        found["hits"] = hits.of_observers(arguments.hits, arguments.block)
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {_OUT.relative_to(_ROOT)}")
    return 0


def _downloads(scale: float, seconds: float, pairs: int, only: str) -> dict[str, object]:
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = _ROOT / "build" / "bench" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    origin = Origin(Path(tempfile.mkdtemp(prefix="kube-cache-bench-", dir=memory)))
    found: dict[str, object] = {}
    try:
        chosen = [work for work in workloads(scale) if work.name in (only.split(",") if only else _WORKLOADS)]
        for key, size in {key: size for work in chosen for key, size in work.objects.items()}.items():
            origin.add(key, size)
        origin.start()
        print(f"downloads, blocks of {seconds:.0f} s, {pairs} with and {pairs} without; load {os.getloadavg()[0]:.1f}")
        with collector() as endpoint:
            for work in chosen:
                found[work.name] = blocks = _blocks(Bench(origin, folder), work, endpoint, seconds, pairs)
                _tell(work, blocks)
    finally:
        origin.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _blocks(bench: Bench, work: Workload, endpoint: str, seconds: float, pairs: int) -> list[dict[str, float]]:
    bench.work.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.bench.observed_downloads",
        bench.job(work, "ours"),
        str(seconds),
        str(pairs),
    ]
    environment = {**bench.environment(work, "ours"), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    blocks = []
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):  # the others are logs
                blocks.append(json.loads(line))
                print(f"{work.name}: {line.strip()}", file=sys.stderr)
    if process.returncode or len(blocks) != 2 * pairs:
        raise SystemExit(f"{work.name}: ended with {process.returncode} after {len(blocks)} of {2 * pairs} blocks")
    return blocks


def _tell(work: Workload, blocks: list[dict[str, float]]) -> None:
    """Print medians of the blocks, and the median change of pairs of neighbours with the least and the most."""
    for name, title in _FIGURES:
        off, on = ([block[name] for block in blocks if block["observed"] == which] for which in (False, True))
        changes = sorted(100 * (with_it / without - 1) for without, with_it in zip(off, on, strict=True))
        print(
            f"{work.name:18} {title:9} off {statistics.median(off):6.3f}  on {statistics.median(on):6.3f} "
            f" change {statistics.median(changes):+6.1f}% ({changes[0]:+.1f} to {changes[-1]:+.1f})",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.observing", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the downloads' sizes (default 1)")
    parser.add_argument("--only", default="", help=f"workloads of bench-engine (default {','.join(_WORKLOADS)})")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a block of downloads (default 15)")
    parser.add_argument("--pairs", type=int, default=7, help="blocks of each side; 0: no downloads (default 7)")
    parser.add_argument("--hits", type=int, default=200, help="of each side; 0: none (default 200)")
    parser.add_argument("--block", type=int, default=25, help="hits before the sides change (default 25)")
    return parser.parse_args()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core crashes at interpreter exit now and then.
    os._exit(code)
