"""A plan that does what a test says, and remembers what the engine told it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from kube_cache.dataset.range_plan import Choice, ChunkSpan
from kube_cache.dataset.source import Source
from kube_cache.errors import KubeCacheError
from tests.engine.objects import MIB

Choose = Callable[[Collection[int]], Choice | None]


def from_origin(wanted: Collection[int]) -> Choice | None:
    """Choose the origin for the first range."""
    return Choice(min(wanted), None)


class ScriptedPlan:
    """Implements `kube_cache.dataset.range_plan.RangePlan`."""

    def __init__(self, choose: Choose, *, range_bytes: int | None = 4 * MIB) -> None:
        self.choose = choose
        self.events: list[tuple[object, ...]] = []
        """In order: the method's name, then its arguments; a source by its name, an error by its class."""
        self.ranges: list[ChunkSpan] = []
        self.complete: dict[int, int] = {}
        self.provable: bool | None = None
        self.questions: list[frozenset[int]] = []
        self.wake: Callable[[], None] = lambda: None
        self._range_bytes = range_bytes
        self._lock = threading.Lock()

    def range_bytes(self, size: int) -> int | None:
        return self._range_bytes

    def opened(
        self,
        ranges: Sequence[ChunkSpan],
        complete: Mapping[int, int],
        wake: Callable[[], None],
        *,
        provable: bool,
    ) -> None:
        self.ranges, self.complete, self.wake, self.provable = list(ranges), dict(complete), wake, provable
        self._note("opened")

    def next(self, wanted: Collection[int]) -> Choice | None:
        with self._lock:
            self.questions.append(frozenset(wanted))
        return self.choose(wanted)

    def done(self, number: int, crc64: int, source: Source | None) -> None:
        self._note("done", number, crc64, _name(source))

    def failed(self, number: int, source: Source | None, error: KubeCacheError) -> None:
        self._note("failed", number, _name(source), type(error).__name__)

    def mismatch(self, numbers: Collection[int]) -> None:
        self._note("mismatch", sorted(numbers))

    def lied(self, number: int, source: Source) -> None:
        self._note("lied", number, source.name)

    def told(self, event: str) -> list[tuple[object, ...]]:
        """Return the arguments of each call of a method."""
        with self._lock:
            return [arguments for name, *arguments in self.events if name == event]  # type: ignore[misc]

    def _note(self, *event: object) -> None:
        with self._lock:
            self.events.append(event)


def _name(source: Source | None) -> str:
    return "origin" if source is None else source.name
