"""A thread that cannot be started costs its connection, or fails the call: nothing is left behind of it."""

from __future__ import annotations

import logging
import threading

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from tests.engine.fetcher import Fetcher
from tests.engine.objects import assert_whole
from tests.origin.memory import MemoryOrigin


def refuse(monkeypatch: pytest.MonkeyPatch, *beginnings: str) -> None:
    start = threading.Thread.start

    def refuse_some(thread: threading.Thread) -> None:
        if thread.name.startswith(beginnings):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_some)


@pytest.mark.parametrize(
    "name", ["engine-finisher", "engine-governor", "engine-"], ids=["finisher", "governor", "every thread"]
)
def test_a_call_without_its_threads_fails_and_the_next_one_works(
    in_memory: Fetcher, kept: RemoteObject, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patched:
        refuse(patched, name)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            in_memory.fetch([kept])
        assert in_memory.engine._calls == []
    in_memory.fetch([kept])
    assert_whole(in_memory)


def test_fewer_connections_than_wanted_do_the_work(
    in_memory: Fetcher, kept: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, *(f"engine-{number}" for number in range(2, 256)))
    in_memory.fetch([kept])
    assert_whole(in_memory)


def test_the_log_says_once_what_receives_and_what_computes_checksums(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kube_cache.engine"):
        Engine(EngineSettings(), MemoryOrigin()).close()
    (record,) = [record for record in caplog.records if "receives TLS by" in record.getMessage()]
    assert "CRC64NVME" in record.getMessage()
