"""A traced fetch shows each object and the ranges that say most, network and decryption apart, and stays small."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchJob
from kube_cache.engine import tracing
from kube_cache.engine.tracing import CallTrace
from kube_cache.errors import SourceUnavailable
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Span
from kube_cache.telemetry.stages import OF_RANGES
from tests.bench.engine_origin import make_certificate
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher, no_leak
from tests.engine.objects import DATA, HEADERS

POD = spans.pod_place("uid")


def fetch(fetcher: Fetcher, *objects: RemoteObject) -> None:
    with spans.span("stream_dataset", POD):
        fetcher.fetch(objects)


def children(sent: list[Span], parent: Span) -> list[Span]:
    found = [span for span in sent if span.parent == parent.place.span]
    assert all(span.place.trace == POD.trace for span in found)
    return sorted(found, key=lambda span: span.start_ns)


def only(sent: list[Span], name: str) -> Span:
    (found,) = [span for span in sent if span.name == name]
    return found


def job(number: int = 0, size: int = 1) -> FetchJob:
    return FetchJob(RemoteObject("s3", "bucket", f"key-{number}", f"key-{number}", size, '"e"'), Path("p"), Path("j"))


def test_an_object_shows_its_ranges_and_what_each_stage_took(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, sent: list[Span]
) -> None:
    fetch(quick, remote)
    download = only(sent, "stream_dataset")
    (an_object,) = children(sent, download)
    assert an_object.name == "object key"
    assert an_object.attributes["kube_cache.fetched_bytes"] == len(DATA)
    assert an_object.attributes["kube_cache.verified"] == "full-object"
    assert download.start_ns <= an_object.start_ns <= an_object.end_ns <= download.end_ns
    ranges = children(sent, an_object)
    assert 0 < len(ranges) <= int(str(an_object.attributes["kube_cache.ranges"]))
    assert [one.attributes["kube_cache.kept"] for one in ranges].count("first") == 1
    timings = quick.done["key"].timings
    assert an_object.attributes["kube_cache.network_s"] == pytest.approx(timings.network_s, abs=1e-5)
    for one in ranges:
        stages = children(sent, one)
        if one.attributes["kube_cache.kept"] == "sampled":
            assert not stages
            continue
        assert {"write", "verify"} <= {stage.name for stage in stages} <= set(map(str, OF_RANGES))
        assert one.start_ns <= stages[0].start_ns
        assert stages[-1].end_ns <= one.end_ns


def test_decryption_is_apart_from_the_network(
    tmp_path: Path, clean_aws: pytest.MonkeyPatch, request: pytest.FixtureRequest, sent: list[Span]
) -> None:
    make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with no_leak() as watched:
        server = FaultyOrigin(context=context, host="localhost")
        watched.add(server.endpoint)
        clean_aws.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        fetcher = request.getfixturevalue("make_fetcher")(server.endpoint)
        fetch(fetcher, server.put("key", DATA, headers=HEADERS))
        fetcher.close()
        server.close()
    an_object = only(sent, "object key")
    for stage in ("network", "decrypt"):
        assert float(str(an_object.attributes[f"kube_cache.{stage}_s"])) > 0
    shown: set[str] = set()
    for one in children(sent, an_object):
        names = [stage.name for stage in children(sent, one)]
        assert len(names) == len(set(names))
        shown |= set(names)
    # One range alone may have waited for no byte: all had come when it asked.
    assert {"network", "decrypt"} <= shown


def test_a_range_that_took_a_second_try_is_kept(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, sent: list[Span]
) -> None:
    pending = [faults.reset(body=1000)]
    origin.script = lambda request: pending.pop() if request.range and pending else None
    fetch(quick, remote)
    an_object = only(sent, "object key")
    assert an_object.attributes["kube_cache.retries"] == 1
    assert any(one.attributes["kube_cache.retries"] == 1 for one in children(sent, an_object))


def test_a_download_that_fails_says_so_on_its_objects(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject, sent: list[Span]
) -> None:
    fetcher = make_fetcher(origin.endpoint, stall_timeout_s=0.2, give_up_s=0.5)
    origin.script = lambda request: faults.reset(body=1000) if request.range else None
    with pytest.raises(SourceUnavailable):
        fetch(fetcher, remote)
    assert "SourceUnavailable" in only(sent, "object key").error
    assert "SourceUnavailable" in only(sent, "stream_dataset").error


def test_nothing_is_noted_where_nothing_is_traced(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, sent: list[Span]
) -> None:
    quick.fetch([remote])
    assert not sent


def test_the_ranges_of_a_terabyte_leave_a_dozen(sent: list[Span]) -> None:
    call = CallTrace(POD, 10**12)
    one = call.open(job(size=10**12), 1)
    for number in range(60_000):
        with one.range(number, number, 1) as noted:
            noted.timings.network_s = 0.5
            noted.retries = number % 2
    assert len(one.kept_ranges()) <= 11
    one.end(fetched_bytes=10**12, resumed_bytes=0, verified="full-object")
    an_object = only(sent, "object key-0")
    assert an_object.attributes["kube_cache.ranges"] == 60_000
    assert an_object.attributes["kube_cache.network_s"] == pytest.approx(30_000)
    kept = [span.attributes["kube_cache.kept"] for span in children(sent, an_object)]
    assert {"first", "failed"} <= set(kept)
    assert len(kept) <= 11


def test_the_slowest_range_is_kept_wherever_it_comes(sent: list[Span], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    slow = {777: 10**4}
    one = CallTrace(POD, 1).open(job(), 1)
    for number in range(2000):
        began = next(clock)
        ticks = iter([began, began + slow.get(number, 1)])
        monkeypatch.setattr(tracing.time, "perf_counter", lambda ticks=ticks: next(ticks))
        with one.range(number, 0, 1):
            pass
    monkeypatch.undo()
    assert [kept.kept for kept in one.kept_ranges() if kept.number == 777] == ["slowest"]


def land(call: CallTrace, count: int, size: int = 1) -> None:
    """Let so many objects land, each with one range."""
    for number in range(count):
        one = call.open(job(number, size), number + 1)
        with one.range(0, 0, 1) as noted:
            noted.timings.write_s = 1.0
            noted.retries = int(number == count - 1)
        one.end(fetched_bytes=1, resumed_bytes=0, verified="md5")
    call.finish()


def test_each_of_thousands_of_small_files_is_shown_by_a_few_spans(sent: list[Span]) -> None:
    land(CallTrace(POD, 5_000 << 20), 5_000)
    own = [span for span in sent if span.name != "other objects"]
    assert len(own) == 312, "one for 16 MiB each"
    others = [span for span in sent if span.name == "other objects"]
    assert all(len(span.events) <= tracing.EVENTS_OF_SPAN for span in others)
    assert [event.name for span in others for event in span.events] == [f"key-{number}" for number in range(312, 5_000)]
    for name, expected in (("objects", 4_688), ("fetched_bytes", 4_688), ("write_s", 4_688.0)):
        assert sum(float(str(span.attributes[f"kube_cache.{name}"])) for span in others) == pytest.approx(expected)
    for span in others:
        assert span.start_ns < span.events[0].at_ns <= span.events[-1].at_ns == span.end_ns
    last = others[-1].events[-1]
    assert last.attributes["kube_cache.bytes"] == 1
    assert float(str(last.attributes["kube_cache.seconds"])) > 0
    assert last.attributes["kube_cache.retries"] == 1


def test_of_more_files_than_a_trace_may_have_the_sums_remain(sent: list[Span]) -> None:
    count = 50 + tracing.MAX_EVENTS + 1_000
    land(CallTrace(POD, 1), count)
    others = [span for span in sent if span.name == "other objects"]
    assert sum(len(span.events) for span in others) == tracing.MAX_EVENTS
    assert sum(int(str(span.attributes["kube_cache.objects"])) for span in others) == count - 50
    assert len(sent) == 50 + tracing.MAX_EVENTS // tracing.EVENTS_OF_SPAN


def test_nothing_is_made_of_a_trace_that_is_not_sampled(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Span] = []
    spans.set_sink(taken.append, lambda trace: trace != POD.trace)
    monkeypatch.setattr(tracing, "CallTrace", None)
    try:
        fetch(quick, remote)
        with spans.span("other", spans.pod_place("another")):
            pass
    finally:
        spans.set_sink(None)
    assert [span.name for span in taken] == ["other"]
