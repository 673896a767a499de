"""What a download reports before it has looked at its disk."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.node import stream_dataset as module
from activities.node.stream_dataset import StreamDataset
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import StreamInput, StreamProgress
from kube_cache.errors import SourceUnavailable
from kube_cache.store.capacity import Capacity


@pytest.mark.parametrize(
    ("last_heartbeat", "told", "reported"),
    [
        pytest.param([], 0, 0, id="the first attempt"),
        pytest.param([{"done_bytes": 700}], 0, 700, id="an attempt after one that was heard of"),
        pytest.param([], 500, 500, id="an attempt of a download that was scheduled anew"),
        pytest.param([{"state": "of another version"}], 500, 500, id="a heartbeat of another version"),
    ],
)
def test_an_attempt_that_is_lost_before_it_looked_at_the_disk_forgets_nothing(
    last_heartbeat: list[Any], told: int, reported: int
) -> None:
    """Else an agent that is restarted twice would be waited for as if its disk were empty."""
    beats: list[StreamProgress] = []
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, heartbeat_details=last_heartbeat)
    environment.on_heartbeat = beats.append
    origins: Any = SimpleNamespace(of=Mock(side_effect=SourceUnavailable("away")))
    store: Any = SimpleNamespace(cache_id="disk-1", last_capacity=None)
    stream = StreamDataset(store, Mock(), origins, concurrent_downloads=1)
    arg = StreamInput("disk-1", Snapshot("s3://bucket/gpt", "d" * 64, 1, 1000), done_bytes=told)
    with pytest.raises(ApplicationError, match="away"):
        environment.run(stream.stream_dataset, arg)
    assert beats[0].done_bytes == reported
    assert beats[0].total_bytes == 1000


@pytest.mark.parametrize(
    ("measured", "told"),
    [(None, (None, None)), (Capacity(100, -5, 7), (-5, 7))],
    ids=["not measured yet", "of a disk that others have filled"],
)
def test_a_heartbeat_tells_what_was_measured_last_of_the_disk(
    measured: Capacity | None, told: tuple[int | None, int | None]
) -> None:
    """It asks the disk nothing: a disk that hangs must not hold up the heartbeat."""
    beats: list[StreamProgress] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = beats.append
    origins: Any = SimpleNamespace(of=Mock(side_effect=SourceUnavailable("away")))
    store: Any = SimpleNamespace(cache_id="disk-1", last_capacity=measured)
    arg = StreamInput("disk-1", Snapshot("s3://bucket/gpt", "d" * 64, 1, 1000))
    with pytest.raises(ApplicationError, match="away"):
        environment.run(StreamDataset(store, Mock(), origins, concurrent_downloads=1).stream_dataset, arg)
    assert (beats[0].free_bytes, beats[0].reserved_bytes) == told


@pytest.mark.parametrize(
    ("expects", "attempt", "told"),
    [
        pytest.param(False, 1, False, id="nobody is expected"),
        pytest.param(True, 1, True, id="others are expected"),
        pytest.param(False, 2, True, id="an attempt after one that others may have joined"),
    ],
)
def test_the_exchange_is_told_whether_to_listen(
    monkeypatch: pytest.MonkeyPatch, expects: bool, attempt: int, told: bool
) -> None:
    snapshot = Snapshot("s3://bucket/gpt", "d" * 64, 1, 1000)
    joined: list[tuple[str, bool]] = []

    def join(manifest: Any, token: str, *, expects_others: bool) -> Any:
        joined.append((token, expects_others))
        raise SourceUnavailable("enough is seen")

    monkeypatch.setattr(module, "list_dataset", lambda *_, **__: SimpleNamespace(digest=snapshot.digest))
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt)
    store: Any = SimpleNamespace(cache_id="disk-1", last_capacity=None)
    stream = StreamDataset(store, Mock(), Mock(), concurrent_downloads=1, join=join)
    consumer = Consumer("w", PodRef("ml", "one", "uid"), peer_token="granted", expects_others=expects)
    with pytest.raises(ApplicationError, match="enough is seen"):
        environment.run(stream.stream_dataset, StreamInput("disk-1", snapshot, consumer=consumer))
    assert joined == [("granted", told)]
