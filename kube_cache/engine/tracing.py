"""Spans of one call of `fetch`: each object, and of its ranges those that say most. Exists only while spans are sent.

A terabyte has 60,000 ranges, so an object keeps a dozen: the first, the slowest, those that failed or took a second
try, and a sample. The others are in the sums on the object's span. All of a call has a budget, because a trace of more
than some thousand spans is refused by its store and read by nobody. Objects beyond the budget, thousands of small files
as a rule, are events of a few spans that have the sums: an event takes a quarter of a span's CPU.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from kube_cache.dataset.transfer import FetchJob, Timings
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Attribute, Event, Place, Span
from kube_cache.telemetry.stages import Stage

MAX_OBJECTS: Final = 1000
"""Objects of a call with a span each; the others are events."""
MAX_DETAILS: Final = 3000
"""Spans of ranges and their stages in a call."""
MAX_EVENTS: Final = 8192
"""Objects of a call that are events, a MiB in all; of further ones there are sums. Tempo takes 5 MB of a trace."""
EVENTS_OF_SPAN: Final = 128
"""OpenTelemetry's own limit."""
_MAX_NAME: Final = 120
"""Characters of an event's name: the end of the object's path."""
_MIN_SPANS: Final = 50
_BYTES_PER_SPAN: Final = 16 << 20
"""Of a download, for each span of an object, and again for each of a range or stage. A span costs some 0.05 ms of CPU,
and so many bytes some 15 ms: thus a trace takes half a percent of a large download's CPU.
"""
_SLOWEST: Final = 2
_TROUBLED: Final = 4
_SAMPLED: Final = 4
_FIELDS: Final = (
    (Stage.WAIT, "wait_s"),
    (Stage.FIRST_BYTE, "first_byte_s"),
    (Stage.NETWORK, "network_s"),
    (Stage.DECRYPT, "decrypt_s"),
    (Stage.VERIFY, "verify_s"),
    (Stage.WRITE, "write_s"),
)


@dataclass(slots=True)
class RangeTrace:
    number: int
    offset: int
    length: int
    start_ns: int
    seconds: float = 0.0
    timings: Timings = field(default_factory=Timings)
    outcome: str = "failed"
    retries: int = 0
    error: str = ""
    kept: str = ""
    """The rule by which the range has a span."""


@dataclass(slots=True)
class _Others:
    """Objects that share a span: their sums, and an event each while there may be more."""

    objects: int = 0
    fetched_bytes: int = 0
    timings: Timings = field(default_factory=Timings)
    start_ns: int = 0
    end_ns: int = 0
    events: list[Event] = field(default_factory=list)


class CallTrace:
    """Thread-safe."""

    def __init__(self, parent: Place, size: int) -> None:
        """size: bytes of the call's objects."""
        self._parent = parent
        self._lock = threading.Lock()
        affordable = max(_MIN_SPANS, size // _BYTES_PER_SPAN)
        self._objects = min(MAX_OBJECTS, affordable)
        self._details = min(MAX_DETAILS, affordable)
        self._events = MAX_EVENTS
        self._others = _Others()

    @classmethod
    def begin(cls, jobs: Sequence[FetchJob]) -> CallTrace | None:
        """Return the trace of a call that is made below an open span; None where nothing is traced."""
        above = spans.current()
        return None if above is None else cls(above.place, sum(job.object.size for job in jobs))

    def open(self, job: FetchJob, start_ns: int) -> ObjectTrace:
        return ObjectTrace(self, job, start_ns)

    def finish(self) -> None:
        """Send what is left of the objects without a span. To be called at the end of the call."""
        with self._lock:
            others, self._others = self._others, _Others()
        self._send_others(others)

    def send(self, found: ObjectTrace, fetched_bytes: int, more: dict[str, Attribute], error: str) -> None:
        """Send the span of an object that has ended, with those of its ranges, while the budget lasts.

        more: attributes of the span. error: why the object failed; then there is a span also beyond the budget.
        """
        end_ns = time.time_ns()
        ranges: list[RangeTrace] = []
        full = None
        with self._lock:
            is_own = self._objects > 0 or bool(error)
            if is_own:
                self._objects = max(0, self._objects - 1)
                for one in found.kept_ranges():
                    cost = 1 + len(_stages(one))
                    if cost <= self._details:
                        ranges.append(one)
                        self._details -= cost
            else:
                full = self._add(found, fetched_bytes, end_ns)
        if is_own:
            self._send_object(found, end_ns, {**found.attributes(fetched_bytes), **more}, error, ranges)
        elif full is not None:
            self._send_others(full)

    def _send_object(
        self, found: ObjectTrace, end_ns: int, attributes: dict[str, Attribute], error: str, ranges: list[RangeTrace]
    ) -> None:
        name, place = f"object {found.job.object.path}", spans.new_place(self._parent.trace)
        spans.emit(Span(name, place, self._parent.span, found.start_ns, end_ns, attributes, error=error))
        for one in ranges:
            _send_range(one, place)

    def _add(self, found: ObjectTrace, fetched_bytes: int, end_ns: int) -> _Others | None:
        """Add an object to those without a span; return them when they are to be sent. Call under the lock."""
        others = self._others
        others.objects += 1
        others.fetched_bytes += fetched_bytes
        others.timings.add(found.timings)
        others.start_ns = min(others.start_ns or found.start_ns, found.start_ns)
        others.end_ns = max(others.end_ns, end_ns)
        if self._events <= 0:
            return None
        self._events -= 1
        others.events.append(Event(end_ns, found.job.object.path[-_MAX_NAME:], found.event_attributes(end_ns)))
        if len(others.events) < EVENTS_OF_SPAN or self._events <= 0:
            return None
        self._others = _Others()
        return others

    def _send_others(self, others: _Others) -> None:
        if not others.objects:
            return
        attributes: dict[str, Attribute] = {
            "kube_cache.objects": others.objects,
            "kube_cache.fetched_bytes": others.fetched_bytes,
            **_seconds(others.timings),
        }
        place = spans.new_place(self._parent.trace)
        span = Span("other objects", place, self._parent.span, others.start_ns, others.end_ns, attributes)
        span.events = others.events
        spans.emit(span)


class ObjectTrace:
    """One object. Thread-safe. Its memory does not grow with its ranges."""

    __slots__ = (
        "_call", "_first", "_lock", "_retries", "_sample", "_seen", "_slowest", "_troubled", "job", "start_ns", "timings",
    )  # fmt: skip

    def __init__(self, call: CallTrace, job: FetchJob, start_ns: int) -> None:
        self.job = job
        self.start_ns = start_ns
        self.timings = Timings()
        self._call = call
        self._lock = threading.Lock()
        self._seen = self._retries = 0
        self._first: RangeTrace | None = None
        # Of ranges after the first, which most objects have none of.
        self._slowest: list[RangeTrace] = []
        self._troubled: list[RangeTrace] = []
        self._sample: list[RangeTrace] = []

    @contextlib.contextmanager
    def range(self, number: int, offset: int, length: int) -> Iterator[RangeTrace]:
        """Time one attempt at a range; the caller fills in its stages, its retries and its outcome."""
        one = RangeTrace(number, offset, length, time.time_ns())
        began = time.perf_counter()
        try:
            yield one
        except BaseException as error:
            one.error = spans.describe(error)
            raise
        finally:
            one.seconds = time.perf_counter() - began
            self._note(one)

    def end(self, *, fetched_bytes: int, resumed_bytes: int, verified: str, neighbour_bytes: int = 0) -> None:
        """Send the object, which has landed. neighbour_bytes: of `fetched_bytes`."""
        more: dict[str, Attribute] = {"kube_cache.resumed_bytes": resumed_bytes, "kube_cache.verified": verified}
        if neighbour_bytes:
            more["kube_cache.neighbour_bytes"] = neighbour_bytes
        self._call.send(self, fetched_bytes, more, "")

    def fail(self, error: BaseException, fetched_bytes: int) -> None:
        """Send the object, whose call has failed, perhaps because of another object."""
        self._call.send(self, fetched_bytes, {}, spans.describe(error))

    def attributes(self, fetched_bytes: int) -> dict[str, Attribute]:
        """Return the attributes of the object's span."""
        with self._lock:
            return {
                "kube_cache.object": self.job.object.uri,
                "kube_cache.bytes": self.job.object.size,
                "kube_cache.fetched_bytes": fetched_bytes,
                "kube_cache.ranges": self._seen,
                "kube_cache.retries": self._retries,
                **_seconds(self.timings),
            }

    def event_attributes(self, end_ns: int) -> dict[str, Attribute]:
        """Return the attributes of the object's event, as few as say which object was slow."""
        found: dict[str, Attribute] = {
            "kube_cache.bytes": self.job.object.size,
            "kube_cache.seconds": round((end_ns - self.start_ns) / 1e9, 6),
        }
        if self._retries:
            found["kube_cache.retries"] = self._retries
        return found

    def kept_ranges(self) -> list[RangeTrace]:
        """Return the ranges that have a span of their own, what says most first.

        The only range of an object says no more than the object, unless it was in trouble.
        """
        with self._lock:
            if self._seen <= 1:
                return list(self._troubled)
            groups = (
                ("first", [self._first] if self._first is not None else []),
                ("failed", self._troubled),
                ("slowest", self._slowest),
                ("sampled", self._sample),
            )
            chosen: dict[int, RangeTrace] = {}
            for rule, ranges in groups:
                for one in ranges:
                    if id(one) not in chosen:
                        one.kept = rule
                        chosen[id(one)] = one
            return list(chosen.values())

    def _note(self, one: RangeTrace) -> None:
        with self._lock:
            self._seen += 1
            self.timings.add(one.timings)
            if one.error or one.retries:
                self._retries += one.retries
                if len(self._troubled) < _TROUBLED:
                    self._troubled.append(one)
            if self._first is None:
                self._first = one
                return
            if len(self._slowest) < _SLOWEST or one.seconds > self._slowest[-1].seconds:
                self._slowest = sorted([*self._slowest, one], key=lambda found: -found.seconds)[:_SLOWEST]
            if len(self._sample) < _SAMPLED:
                self._sample.append(one)
            elif (place := random.randrange(self._seen - 1)) < _SAMPLED:  # each range is as likely to be kept
                self._sample[place] = one


def _seconds(timings: Timings) -> dict[str, Attribute]:
    """Return the sums over all ranges, which many connections fetch at once."""
    return {f"kube_cache.{stage}_s": round(getattr(timings, name), 6) for stage, name in _FIELDS}


def _stages(one: RangeTrace) -> list[tuple[Stage, float]]:
    """Return the stages that have a span: those of a sampled range are in its attributes only."""
    if one.kept == "sampled":
        return []
    return [(stage, seconds) for stage, name in _FIELDS if (seconds := getattr(one.timings, name)) > 0]


def _send_range(one: RangeTrace, parent: Place) -> None:
    place = spans.new_place(parent.trace)
    attributes: dict[str, Attribute] = {
        "kube_cache.range": one.number,
        "kube_cache.offset": one.offset,
        "kube_cache.bytes": one.length,
        "kube_cache.outcome": one.outcome,
        "kube_cache.retries": one.retries,
        "kube_cache.kept": one.kept,
        **_seconds(one.timings),
    }
    end_ns = one.start_ns + int(one.seconds * 1e9)
    spans.emit(Span(f"range {one.number}", place, parent.span, one.start_ns, end_ns, attributes, error=one.error))
    # The stages take turns, once a buffer. Drawn one after the other, each as long as all of its turns together, they
    # show what the time went to.
    at = one.start_ns
    for stage, seconds in _stages(one):
        until = min(end_ns, at + int(seconds * 1e9))
        spans.emit(Span(str(stage), spans.new_place(place.trace), place.span, at, until, {"kube_cache.summed": True}))
        at = until
