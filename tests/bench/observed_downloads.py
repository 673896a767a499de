"""Downloads by our engine, observed and not, in one process: `…observed_downloads JOB SECONDS PAIRS`.

JOB as of engine_clients. A block is one download after the other for so many seconds; blocks alternate, so that what
the machine does meanwhile falls on both. Observed as an agent is: a trace of each download, sent to a collector, and a
scrape each SCRAPE_S. Prints a JSON line a block: `observed`, `gbps` over the downloads alone, `cpu_s_per_gb` with all
that the block ends with, the last spans included.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.engine_clients import Job, ours
from tests.bench.observers import SCRAPE_S


def main() -> None:
    job, seconds, pairs = Job(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    made: list[Any] = []
    run = ours(job, made.append)  # first: it hides awscrt from botocore
    with _observers(made[0]):  # an agent loads what observes it at its start
        run()
    for number in range(pairs):
        for observed in (False, True) if number % 2 else (True, False):
            print(json.dumps(_block(run, made[0], sum(job.objects.values()), seconds, observed=observed)), flush=True)
    os._exit(0)  # as engine_clients


def _block(run: Callable[[], None], engine: Any, size: int, seconds: float, *, observed: bool) -> dict[str, float]:
    from kube_cache.telemetry import spans

    os.sync()
    count, took = 0, 0.0
    cpu_before = time.process_time()
    with _observers(engine) if observed else contextlib.nullcontext():
        while took < seconds:
            began = time.perf_counter()
            with spans.span("stream_dataset", spans.pod_place(f"bench-{count}")):
                run()
            took += time.perf_counter() - began
            count += 1
    gigabytes = count * size / 1e9
    cpu_s = time.process_time() - cpu_before
    return {"observed": observed, "gbps": gigabytes / took, "cpu_s_per_gb": cpu_s / gigabytes, "downloads": count}


@contextlib.contextmanager
def _observers(engine: Any) -> Iterator[None]:
    from kube_cache.engine.metering import EngineMeter
    from kube_cache.telemetry.declarations import Process
    from kube_cache.telemetry.exposition import Exposition
    from kube_cache.telemetry.tracing import tracing

    exposition, ended = Exposition(Process.AGENT), threading.Event()
    exposition.before_scrape.append(EngineMeter(engine).update)

    def scrape() -> None:
        while not ended.wait(SCRAPE_S):
            exposition.text()

    scraper = threading.Thread(target=scrape)
    with tracing("kube-cache-agent"):
        scraper.start()
        try:
            yield
        finally:
            ended.set()
            scraper.join()
            exposition.text()


if __name__ == "__main__":
    main()
