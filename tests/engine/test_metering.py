"""What the engine did becomes metrics when somebody looks: bytes, seconds by stage, retries by cause."""

from __future__ import annotations

from collections.abc import Callable

from kube_cache.dataset.remote import RemoteObject
from kube_cache.engine.metering import EngineMeter
from kube_cache.telemetry.bounds import RETRY_CAUSES
from kube_cache.telemetry.stages import OF_RANGES
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA
from tests.telemetry.scrape import Changes, value


def test_a_fetch_is_counted_once_however_often_somebody_looks(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject
) -> None:
    changes, meter = Changes(), EngineMeter(quick.engine)
    meter.update()
    quick.fetch([remote])
    for _ in range(3):
        meter.update()
    assert changes.of("kube_cache_received_bytes_total") == len(DATA)
    assert changes.of("kube_cache_written_bytes_total") == len(DATA)
    seconds = {stage: changes.of("kube_cache_transfer_seconds_total", stage=stage) for stage in OF_RANGES}
    assert seconds["network"] > 0
    assert seconds["write"] > 0
    assert seconds["verify"] > 0
    assert seconds["decrypt"] == 0, "without TLS"
    assert not changes.any_of("kube_cache_range_retries_total")
    assert (value("kube_cache_connections") or 0) > 0


def test_the_seconds_of_the_process_are_those_of_its_objects(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject
) -> None:
    changes, meter = Changes(), EngineMeter(quick.engine)
    quick.fetch([remote])
    meter.update()
    of_object = quick.done["key"].timings
    for stage, seconds in {"network": of_object.network_s, "write": of_object.write_s}.items():
        assert abs(changes.of("kube_cache_transfer_seconds_total", stage=stage) - seconds) < 1e-6


def test_retries_are_counted_by_their_cause(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    fetcher = make_fetcher(origin.endpoint, stall_timeout_s=0.3, give_up_s=5)
    changes, meter = Changes(), EngineMeter(fetcher.engine)
    pending = [faults.status("503 Slow Down", "SlowDown"), faults.stall(body=1000), faults.reset(body=1000)]
    origin.script = lambda request: pending.pop() if request.range and pending else None
    fetcher.fetch([remote])
    meter.update()
    causes = {cause: changes.of("kube_cache_range_retries_total", cause=cause) for cause in RETRY_CAUSES}
    assert min(causes[cause] for cause in ("throttled", "stalled", "unavailable")) >= 1, causes
    assert causes["credentials"] == causes["checksum"] == 0
    # What a cut or a stall had delivered is kept, as far as whole buffers go; the rest came twice.
    assert changes.of("kube_cache_received_bytes_total") >= len(DATA)


def test_what_workers_did_that_have_ended_still_counts(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([remote])
    before = fetcher.engine.totals()
    fetcher.engine.close()
    assert fetcher.engine.workers() == []
    assert fetcher.engine.totals() == before
