"""What the engine's tests share: an engine over a given server, jobs in a folder of the test, and a count of leaks."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress, RemoteObject
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings
from tests.engine.origin import Origin

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}


class Fetcher:
    """An engine and the objects that went through it."""

    def __init__(self, engine: Engine, folder: Path, origins: Origins) -> None:
        self.engine = engine
        self.folder = folder
        self.origins = origins
        self.done: dict[str, FetchedObject] = {}
        self.progress: list[FetchProgress] = []

    def jobs(self, objects: list[RemoteObject]) -> list[FetchJob]:
        return [
            FetchJob(each, self.folder / f"{number}.part", self.folder / f"{number}.journal")
            for number, each in enumerate(objects)
        ]

    def fetch(
        self,
        objects: list[RemoteObject],
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


@pytest.fixture
def clean_aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No AWS setting of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    return monkeypatch


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A server in this process; after it is closed as well, no thread and no descriptor is left."""
    with no_leak():
        made = Origin()
        yield made
        made.close()


@pytest.fixture
def fetcher(
    request: pytest.FixtureRequest, clean_aws: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Fetcher]]:
    """make(endpoint, **settings) → Fetcher; each is closed after the test, and leaves no thread and no descriptor."""
    made: list[Fetcher] = []
    in_process = "origin" in request.fixturenames  # its own check comes later, when its end of the sockets is gone, too

    def make(
        endpoint: str,
        *,
        access_key: str = "",
        secret_key: str = "",
        origin_settings: OriginSettings | None = None,
        **settings: object,
    ) -> Fetcher:
        clean_aws.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        clean_aws.setenv("AWS_ACCESS_KEY_ID", access_key or CREDENTIALS["AWS_ACCESS_KEY_ID"])
        clean_aws.setenv("AWS_SECRET_ACCESS_KEY", secret_key or CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
        origins = Origins(origin_settings or OriginSettings())
        engine = Engine(EngineSettings(**settings), origins)  # type: ignore[arg-type]
        made.append(Fetcher(engine, tmp_path, origins))
        return made[-1]

    with nullcontext() if in_process else no_leak():
        yield make
        for each in made:
            each.engine.close()
            each.origins.close()


@contextmanager
def no_leak() -> Iterator[None]:
    """Threads of the engine and open descriptors are as many after as before."""
    listed = _descriptors()
    before = len(listed)
    yield
    deadline = time.monotonic() + 5
    while (left := _left_over(before)) and time.monotonic() < deadline:
        time.sleep(0.02)  # a closing socket takes a moment to be seen
        gc.collect()  # urllib3 lets go of a connection whose head it cannot parse, and closes it only so
    assert not left, (sorted(set(left) - set(listed)), sorted(set(listed) - set(left)))


def _left_over(before: int) -> list[str]:
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]
    # Counted, not compared: the test's own client may have replaced a connection.
    descriptors = _descriptors()
    return threads + (descriptors if len(descriptors) > before else [])


def _descriptors() -> list[str]:
    found: list[str] = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{fd.name}: {fd.readlink()}")
        except OSError:
            continue  # the one that listed the folder
    return found
