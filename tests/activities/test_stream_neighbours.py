"""What a download says of the bytes that other nodes sent: in its result, in its heartbeats, and on its span."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from temporalio.testing import ActivityEnvironment

from activities.node import stream_dataset
from activities.node.stream_dataset import StreamDataset
from kube_cache.contracts.common import BannedNeighbour, Consumer, PodRef, Snapshot
from kube_cache.contracts.node import StreamInput, StreamProgress, StreamResult
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.store.download import DownloadResult
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Span

DIGEST = "d" * 64
MANIFEST = Manifest(DatasetUri.parse("s3://bucket/gpt"), DIGEST, (), 1000)
FED = DownloadResult(900, 100, Verified.FULL_OBJECT, 2.0, {"gpu-2": 400, "gpu-3": 149}, 351)
CONSUMER = Consumer("warm/team/train/uid", PodRef("team", "train", "uid"), peer_token="kc1.token")


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_dataset, "list_dataset", lambda *_args, **_named: MANIFEST)


class Exchange:
    """What has come so far, as a test says; before this download one neighbour had sent something."""

    def __init__(self) -> None:
        self.bytes: Mapping[str, int] = {"": 5, "gpu-9": 50}
        self.lies: list[tuple[str, str]] = []

    def taken(self) -> Mapping[str, int]:
        return self.bytes

    def take_lies(self) -> list[tuple[str, str]]:
        lies, self.lies = self.lies, []
        return lies


def run(
    download: Callable[..., DownloadResult], *, exchange: object = None, environment: ActivityEnvironment | None = None
) -> StreamResult:
    store: Any = SimpleNamespace(cache_id="disk-1", last_capacity=None, download=download)

    @contextmanager
    def join(_manifest: Manifest, _token: str, *, expects_others: bool) -> Iterator[Any]:
        yield exchange

    stream = StreamDataset(store, Mock(), Mock(), concurrent_downloads=1, join=join)
    arg = StreamInput("disk-1", Snapshot("s3://bucket/gpt", DIGEST, 1, 1000), consumer=CONSUMER)
    result: StreamResult = (environment or ActivityEnvironment()).run(stream.stream_dataset, arg)
    return result


def test_the_result_says_how_many_bytes_came_from_how_many_nodes() -> None:
    result = run(lambda *_args, **_named: FED)
    assert (result.fetched_bytes, result.neighbour_bytes, result.neighbours) == (900, 549, 2)


def test_the_span_says_the_bytes_by_their_source(sent: list[Span]) -> None:
    with spans.span("stream_dataset", spans.pod_place("uid")):
        run(lambda *_args, **_named: FED)
    attributes = next(span.attributes for span in sent if span.name == "stream_dataset")
    found = {name: attributes[f"kube_cache.{name}"] for name in ("origin_bytes", "neighbour_bytes", "resumed_bytes")}
    assert found == {"origin_bytes": 351, "neighbour_bytes": 549, "resumed_bytes": 100}
    assert attributes["kube_cache.neighbours"] == 2


def test_heartbeats_say_what_neighbours_have_sent_since_the_download_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_dataset, "_BEAT_S", 0.01)
    exchange, environment, beats = Exchange(), ActivityEnvironment(), list[StreamProgress]()
    told, begun = threading.Event(), threading.Event()

    def heard(progress: StreamProgress) -> None:
        beats.append(progress)
        if begun.is_set() and progress.neighbour_bytes:
            told.set()

    def download(*_args: object, **_named: object) -> DownloadResult:
        exchange.bytes = {"": 105, "gpu-9": 50, "gpu-2": 300, "gpu-3": 20}
        begun.set()
        assert told.wait(90)
        return FED

    environment.on_heartbeat = heard
    run(download, exchange=exchange, environment=environment)
    assert {(beat.neighbour_bytes, beat.neighbours) for beat in beats} == {(0, 0), (320, 2)}


def test_the_result_names_who_was_banned_once_and_no_more_of_them_than_fit() -> None:
    exchange = Exchange()
    exchange.lies = [(f"gpu-{number}", "sent other bytes") for number in range(40)]
    banned = run(lambda *_args, **_named: FED, exchange=exchange).banned
    assert banned == [BannedNeighbour(f"gpu-{number}", "sent other bytes") for number in range(16)]
    assert run(lambda *_args, **_named: FED, exchange=exchange).banned == []


def test_a_download_from_the_origin_alone_bans_nobody() -> None:
    assert run(lambda *_args, **_named: FED).banned == []
