"""On one node a prefetch runs only while no Pod's download does, and makes room for one within two seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.node import stream_dataset
from activities.node.lanes import Lanes
from activities.node.stream_dataset import StreamDataset
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.node import StreamInput
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, PrefetchYielded
from kube_cache.store.download import DownloadResult
from tests.telemetry.scrape import Changes


class Store:
    """Each download runs until it is told to stop, or `go` is set."""

    cache_id, last_capacity = "disk-1", None

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.asked: dict[str, dict[str, Any]] = {}
        self.changed = threading.Condition()

    def download(self, manifest: Manifest, _engine: object, *, cancelled: Callable[[], bool], **how: Any) -> Any:
        self._note(manifest, "begins", how)
        try:
            while not self.go.wait(0.02):
                if cancelled():
                    raise Cancelled("asked to")
            return DownloadResult(1, 0, Verified.FULL_OBJECT, 0.1)
        finally:
            self._note(manifest, "ends")

    def _note(self, manifest: Manifest, what: str, how: dict[str, Any] | None = None) -> None:
        with self.changed:
            self.events.append((manifest.digest, what))
            if how is not None:
                self.asked[manifest.digest] = how
            self.changed.notify_all()

    def wait(self, digest: str, what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: (digest, what) in self.events, 60), self.events


POD, PREFETCH, OTHER = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, StreamDataset]]:
    store = Store()
    monkeypatch.setattr(
        stream_dataset, "list_dataset", lambda _origin, uri, on_page: Manifest(uri, uri.prefix * 64, (), 1)
    )
    origins: Any = SimpleNamespace(of=lambda _scheme: None)
    yield store, StreamDataset(store, SimpleNamespace(), origins, concurrent_downloads=1)  # type: ignore[arg-type]
    store.go.set()


class Running:
    """One attempt, in a thread of its own."""

    def __init__(self, stream: StreamDataset, digest: str, *, spare: bool, rate: int = 0) -> None:
        uri = DatasetUri("s3", "bucket", digest[0])
        arg = StreamInput("disk-1", Snapshot(str(uri), digest, 1, 1), spare=spare, max_bytes_per_s=rate)
        self.error: BaseException | None = None

        def run() -> None:
            try:
                ActivityEnvironment().run(stream.stream_dataset, arg)
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def end(self) -> BaseException | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.error


def test_a_pod_for_other_data_goes_first_and_the_prefetch_tries_again_later(node: tuple[Store, StreamDataset]) -> None:
    store, stream = node
    changes = Changes()
    prefetch = Running(stream, PREFETCH, spare=True, rate=1000)
    store.wait(PREFETCH, "begins")
    pod = Running(stream, POD, spare=False)
    store.wait(POD, "begins")
    assert store.events[:3] == [(PREFETCH, "begins"), (PREFETCH, "ends"), (POD, "begins")]
    yielded = prefetch.end()
    assert isinstance(yielded, ApplicationError)
    assert (yielded.type, yielded.non_retryable) == ("PrefetchYielded", False)
    assert yielded.next_retry_delay is not None
    again = Running(stream, PREFETCH, spare=True)
    assert isinstance(again.end(), ApplicationError), "the Pod's download still runs"
    assert [changes.of("kube_cache_prefetch_yields_total", when=when) for when in ("running", "begin")] == [1, 1]
    store.go.set()
    assert pod.end() is None
    assert Running(stream, PREFETCH, spare=True).end() is None
    assert (store.asked[POD]["spare"], store.asked[POD]["max_bytes_per_s"]) == (False, 0)


def test_the_budget_of_a_prefetch_reaches_the_store(node: tuple[Store, StreamDataset]) -> None:
    store, stream = node
    store.go.set()
    assert Running(stream, PREFETCH, spare=True, rate=1000).end() is None
    assert (store.asked[PREFETCH]["spare"], store.asked[PREFETCH]["max_bytes_per_s"]) == (True, 1000)


def test_prefetches_of_one_node_take_turns(node: tuple[Store, StreamDataset]) -> None:
    store, stream = node
    first = Running(stream, PREFETCH, spare=True)
    store.wait(PREFETCH, "begins")
    second = Running(stream, OTHER, spare=True).end()
    assert isinstance(second, ApplicationError)
    assert second.type == "PrefetchYielded"
    store.go.set()
    assert first.end() is None


def test_a_prefetch_that_hangs_holds_a_pod_up_for_two_seconds_at_most() -> None:
    lanes = Lanes()
    with lanes.for_prefetch(), lanes.for_pod():
        assert lanes.must_yield()
        lanes.wait_for_prefetches(lambda: False)
        with pytest.raises(PrefetchYielded), lanes.for_prefetch():
            pass
