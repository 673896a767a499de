"""A real Prometheus that holds made samples of weeks, written by its own backfill from OpenMetrics.

Scrapes nothing, so that a test owns each sample. Stays beside a stack as long as the context.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.servers import build
from tools.stack import environment, ports, probe
from tools.stack.processes import Process
from tools.stack.stack import Stack

SERVERS = ("prometheus", "promtool")
_READY_S = 90
_BACKFILL_S = 240
# Longer than any history of a test; by default Prometheus drops what is older than 15 days.
_RETENTION = "120d"


@contextmanager
def backfilled(stack: Stack, samples: Iterable[str]) -> Iterator[str]:
    """Serve the samples; the URL. samples: lines of OpenMetrics, oldest first, without the last line."""
    binaries = build.ensure(list(SERVERS))
    folder = stack.state / "backfilled"
    folder.mkdir()
    written, config = folder / "made.openmetrics", folder / "prometheus.yaml"
    written.write_text("\n".join([*samples, "# EOF\n"]))
    config.write_text("global: {}\n")
    # Blocks of two hours, the default, take forty times as long for three weeks.
    words = ["tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=8d", str(written), str(folder / "data")]
    subprocess.run([str(binaries["promtool"]), *words], check=True, capture_output=True, timeout=_BACKFILL_S)

    def launch(chosen: list[int]) -> tuple[Process, str]:
        url = f"http://{ports.LOOPBACK}:{chosen[0]}"
        command: list[str | Path] = [
            binaries["prometheus"],
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--storage.tsdb.retention.time={_RETENTION}",
            f"--web.listen-address={ports.LOOPBACK}:{chosen[0]}",
        ]
        process = stack.processes.spawn("backfilled", command, environment.clean(stack.state))
        process.wait_until(lambda: probe.answers(f"{url}/-/ready"), "/-/ready", _READY_S)
        return process, url

    process, url = ports.binding(1, launch)
    try:
        yield url
    finally:
        process.kill()
