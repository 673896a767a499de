"""Fixtures of the engine's tests: a misbehaving origin, and engines over a given server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import CREDENTIALS, Fetcher, no_leak
from tests.engine.objects import DATA, HEADERS
from tests.origin.memory import MemoryOrigin


@pytest.fixture
def clean_aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without the AWS settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    return monkeypatch


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    """A server in this process. After it is closed as well, no thread and no descriptor may be left."""
    with no_leak() as watched:
        origin = FaultyOrigin()
        watched.add(origin.endpoint)
        yield origin
        origin.close()


@pytest.fixture
def make_fetcher(
    request: pytest.FixtureRequest, clean_aws: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Fetcher]]:
    """Factory: (endpoint, **settings) → Fetcher. Each is closed after the test, and may leave nothing behind."""
    fetchers: list[Fetcher] = []
    in_process = "origin" in request.fixturenames  # that fixture checks later, when its end of the sockets is gone, too

    def make(
        endpoint: str,
        *,
        access_key: str = "",
        secret_key: str = "",
        origin_settings: OriginSettings | None = None,
        **settings: object,
    ) -> Fetcher:
        if watched is not None:
            watched.add(endpoint)
        clean_aws.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        clean_aws.setenv("AWS_ACCESS_KEY_ID", access_key or CREDENTIALS["AWS_ACCESS_KEY_ID"])
        clean_aws.setenv("AWS_SECRET_ACCESS_KEY", secret_key or CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
        origins = Origins(origin_settings or OriginSettings())
        engine = Engine(EngineSettings(**settings), origins)  # type: ignore[arg-type]
        fetchers.append(Fetcher(engine, tmp_path, origins))
        return fetchers[-1]

    with nullcontext() if in_process else no_leak() as watched:
        yield make
        for fetcher in fetchers:
            fetcher.close()


@pytest.fixture
def quick(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> Fetcher:
    """An impatient engine: half a second of silence is a stall, two seconds of it the end."""
    return make_fetcher(origin.endpoint, stall_timeout_s=0.5, give_up_s=2)


@pytest.fixture
def remote(origin: FaultyOrigin) -> RemoteObject:
    """The object `key` with `DATA` and its checksum."""
    return origin.put("key", DATA, headers=HEADERS)


@pytest.fixture
def memory() -> MemoryOrigin:
    """An origin without a socket, for tests that need no HTTP."""
    return MemoryOrigin()


@pytest.fixture
def in_memory(memory: MemoryOrigin, tmp_path: Path) -> Iterator[Fetcher]:
    """An impatient engine over that origin."""
    with no_leak():
        fetcher = Fetcher(Engine(EngineSettings(give_up_s=2), memory), tmp_path, memory)
        yield fetcher
        fetcher.close()


@pytest.fixture
def kept(memory: MemoryOrigin) -> RemoteObject:
    """The object `key` of the origin in memory, with `DATA` and its checksum."""
    return memory.put("key", DATA)
