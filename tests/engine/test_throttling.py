"""An object store that asks for fewer requests gets fewer."""

from __future__ import annotations

import time

import pytest

from kube_cache.dataset.remote import RemoteObject
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin, Request
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB

pytestmark = pytest.mark.slow


def test_a_storm_of_503_is_answered_with_fewer_requests(origin: FaultyOrigin, quick: Fetcher) -> None:
    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(40)]
    until = time.monotonic() + 1.5
    origin.script = lambda request: (
        faults.status("503 Slow Down", "SlowDown") if request.method == "GET" and time.monotonic() < until else None
    )
    quick.fetch(objects)
    assert len(quick.done) == 40
    assert len(origin.gets()) < 40 + 60  # eight connections without a brake would ask thousands of times


def test_retry_after_is_honoured(origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject) -> None:
    sent_at: list[float] = []

    def script(request: Request) -> Fault | None:
        if request.range:
            sent_at.append(time.monotonic())
            if len(sent_at) == 1:
                return faults.status("503 Slow Down", "SlowDown", Retry_After="1")
        return None

    origin.put("key", DATA[: 9 * MIB])
    origin.script = script
    quick.fetch([RemoteObject("s3", "bucket", "key", "key", 9 * MIB, remote.etag)])
    assert max(sent_at) - sent_at[0] >= 1.0
