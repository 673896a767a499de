"""Those who watch a bench: a collector of spans as a process of its own, and scrapes of metrics."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SCRAPE_S: Final = 15
"""Seconds between scrapes: Prometheus' usual ones, and deploy/monitoring's."""


@contextmanager
def scraped(ports: Sequence[int]) -> Iterator[None]:
    """Read /metrics of each port now, and each SCRAPE_S again."""
    ended = threading.Event()

    def scrape() -> None:
        while True:
            for port in ports:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    answer.read()
            if ended.wait(SCRAPE_S):
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def collector() -> Iterator[str]:
    """Yield the endpoint of a collector that takes spans over gRPC and drops them unread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.observers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def _serve() -> None:
    """Serve until the other side of stdin has gone."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")  # an empty answer: all taken
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": handler}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    _serve()
