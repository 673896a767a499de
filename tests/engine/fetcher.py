"""An engine with what it fetched, and the check that it leaves no thread and no descriptor behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress, RemoteObject
from kube_cache.engine.engine import Engine
from kube_cache.origin.s3 import Origins

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}


class Fetcher:
    """An engine, the objects that it fetched and the progress that it reported."""

    def __init__(self, engine: Engine, folder: Path, origins: Origins) -> None:
        self.engine = engine
        self.folder = folder
        self.origins = origins
        self.done: dict[str, FetchedObject] = {}
        self.progress: list[FetchProgress] = []

    def jobs(self, objects: Sequence[RemoteObject], prefix: str = "") -> list[FetchJob]:
        """Make jobs with files named by `prefix` and their place, so that two calls at once have different prefixes."""
        return [
            FetchJob(remote, self.folder / f"{prefix}{number}.part", self.folder / f"{prefix}{number}.journal")
            for number, remote in enumerate(objects)
        ]

    def fetch(
        self,
        objects: Sequence[RemoteObject],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
    ) -> None:
        self.engine.fetch(
            self.jobs(objects),
            on_object=lambda done: self.done.__setitem__(done.job.object.key, done),
            progress=self.progress.append,
            cancelled=cancelled,
            priority=priority,
        )

    def content(self, key: str) -> bytes:
        return self.done[key].job.part_path.read_bytes()

    def close(self) -> None:
        self.engine.close()
        self.origins.close()


@contextmanager
def no_leak() -> Iterator[None]:
    """Check that threads of the engine and open descriptors are as many after as before."""
    before = _descriptors()
    yield
    deadline = time.monotonic() + 5
    while (left := _left_over(len(before))) and time.monotonic() < deadline:
        time.sleep(0.02)  # a closing socket takes a moment to be seen
        gc.collect()  # urllib3 drops a connection whose head it cannot parse, and only the collector closes that
    assert not left, (sorted(set(left) - set(before)), sorted(set(before) - set(left)))


def _left_over(before: int) -> list[str]:
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]
    # Counted, not compared: the test's own client may have replaced a connection.
    descriptors = _descriptors()
    return threads + (descriptors if len(descriptors) > before else [])


def _descriptors() -> list[str]:
    descriptors: list[str] = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            descriptors.append(f"{fd.name}: {fd.readlink()}")
        except OSError:
            continue  # the descriptor that listed the folder
    return descriptors
