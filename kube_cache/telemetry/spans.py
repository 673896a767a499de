"""Spans of the trace of a Pod: their ids, and a place to hand them to. Off until a sink is set.

All ids follow from the Pod's uid, so that watcher, workflow and both processes agree on them without passing a context
along, also after a restart (docs/design/tracing.md). A span is handed over complete, when it has ended. Knows the
standard library only: `otlp` sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Attribute = str | bool | int | float | list[str]
_MAX_ERROR: Final = 500
"""Characters of an error's message: a span is for the eye."""


class Place(NamedTuple):
    """A span that others may name as their parent, or link to, whether it was sent yet or not."""

    trace: int
    span: int
    """0 = the trace itself, so that what has this parent is a root."""

    def __str__(self) -> str:
        return f"{self.trace:032x}-{self.span:016x}"


class Event(NamedTuple):
    """A moment within a span, for what is too small for a span of its own."""

    at_ns: int
    """Since the epoch."""
    name: str
    attributes: dict[str, Attribute]


@dataclass(slots=True)
class Span:
    name: str
    place: Place
    parent: int
    """Id of a span of the same trace; 0 = root."""
    start_ns: int
    """Since the epoch."""
    end_ns: int = 0
    attributes: dict[str, Attribute] = field(default_factory=dict)
    links: tuple[Place, ...] = ()
    error: str = ""
    events: Sequence[Event] = ()
    clock_ns: int = 0
    """Of an open span: what the monotonic clock lacks to the time since the epoch. Spans below it use the same, so that
    they end before it does, whatever is between two looks at two clocks."""


def _every(_trace: int) -> bool:
    return True


_sink: Callable[[Span], None] | None = None
_is_sampled: Callable[[int], bool] = _every
_current: ContextVar[Span | None] = ContextVar("kube_cache_span", default=None)


def set_sink(sink: Callable[[Span], None] | None, is_sampled: Callable[[int], bool] = _every) -> None:
    """Switch tracing on, or off.

    sink: takes each span that has ended; must not block. is_sampled: whether the spans of a trace are wanted, so that
    none are made of others. Both are called from any thread.
    """
    global _sink, _is_sampled
    _sink, _is_sampled = sink, is_sampled


def is_on() -> bool:
    return _sink is not None


def emit(span: Span) -> None:
    """Hand over a span that has ended."""
    if _sink is not None:
        _sink(span)


def pod_place(uid: str) -> Place:
    """Return the root span of a Pod. The trace id is the first half of the SHA-256 of the uid."""
    digest = hashlib.sha256(uid.encode()).digest()
    return Place(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))


def step_place(uid: str, stage: str, key: str) -> Place:
    """Return a step in the trace of a Pod. key: what tells the step from others of its stage."""
    digest = hashlib.sha256(f"{uid}\0{stage}\0{key}".encode()).digest()
    return Place(pod_place(uid).trace, int.from_bytes(digest[:8]))


def trace_id(uid: str) -> str:
    """Return the id of a Pod's trace as tools show it: 32 hexadecimal digits."""
    return f"{pod_place(uid).trace:032x}"


def parse_place(text: str) -> Place | None:
    """Read what `str(place)` wrote; None for anything else."""
    trace, _, span = text.partition("-")
    try:
        place = Place(int(trace, 16), int(span, 16))
    except ValueError:
        return None
    return place if 0 < place.trace < 1 << 128 and 0 < place.span < 1 << 64 else None


def new_place(trace: int) -> Place:
    return Place(trace, random.getrandbits(64) or 1)


def current() -> Span | None:
    """Return the innermost open span of this thread or task; None when tracing is off, or nothing is traced here."""
    return _current.get()


@contextlib.contextmanager
def span(name: str, parent: Place | None = None, **attributes: Attribute) -> Iterator[Span | None]:
    """Open a span below `parent`, by default below the current one.

    There is none without either, without a sink, or in a trace that is not sampled.
    """
    outer = _current.get()
    above = parent if parent is not None or outer is None else outer.place
    if _sink is None or above is None or not _is_sampled(above.trace):
        yield None
        return
    clock_ns = time.time_ns() - time.perf_counter_ns() if outer is None else outer.clock_ns
    begins_ns = time.perf_counter_ns() + clock_ns
    opened = Span(name, new_place(above.trace), above.span, begins_ns, attributes=attributes, clock_ns=clock_ns)
    token = _current.set(opened)
    try:
        yield opened
    except BaseException as error:
        opened.error = describe(error)
        raise
    finally:
        _current.reset(token)
        opened.end_ns = time.perf_counter_ns() + clock_ns
        emit(opened)


def describe(error: BaseException) -> str:
    """Return the error's type and message, cut."""
    kind = getattr(error, "type", None) or type(error).__name__
    return f"{kind}: {error}"[:_MAX_ERROR]
