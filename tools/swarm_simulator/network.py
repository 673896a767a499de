"""Simulated clock, links and flows: what a swarm runs on in place of machines.

A flow takes what its two links offer it, whichever is less. A link shares its capacity evenly among its flows; what one
of them cannot use, because its other link gives less, goes to the others. Approximation: a change is followed to the
two links of the flow that began or ended and not further, where TCP would settle over the whole network.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

_MIN_RATE: Final = 1.0


class Link:
    """One direction of a link. capacity: bytes per second."""

    __slots__ = ("capacity", "flows")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.flows: dict[Flow, None] = {}


class Flow:
    """Bytes on their way. `on_end` is called once, with False if the flow was cut."""

    __slots__ = ("down", "down_offer", "due", "ends_at", "left", "on_end", "rate", "since", "up", "up_offer", "version")

    def __init__(self, up: Link, down: Link, length: float, on_end: Callable[[bool], None]) -> None:
        self.up = up
        self.down = down
        self.left = length
        self.on_end = on_end
        self.rate = 0.0
        self.since = 0.0
        self.up_offer = float("inf")
        self.down_offer = float("inf")
        self.ends_at = float("inf")
        """At the present rate."""
        self.due = float("inf")
        """When it is looked at next: its event's time. A flow that slows down keeps its event, and has another then."""
        self.version = 0


class Network:
    """The clock, what is to happen, and the flows. Times are seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None] | None, Flow | None, int]] = []
        self._count = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, action, None, 0))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, is_over: Callable[[], bool], until: float) -> None:
        """Let things happen until `is_over` or the time `until`."""
        events = self._events
        while events and not is_over():
            time, _, action, flow, version = heapq.heappop(events)
            if flow is not None:
                if flow.version != version:
                    continue  # it has become quicker since, or was cut
                if flow.ends_at > time:
                    self._look(flow)
                    continue
            if time > until:
                return
            self.now = time
            if action is not None:
                action()
            elif flow is not None:
                self._remove(flow)
                flow.on_end(True)

    def start(self, flow: Flow) -> None:
        flow.since = self.now
        flow.up.flows[flow] = None
        flow.down.flows[flow] = None
        self._share(flow.up, flow.down)

    def cut(self, flow: Flow) -> None:
        """End a flow before its last byte, if it has not ended."""
        if flow in flow.up.flows:
            self._remove(flow)
            flow.on_end(False)

    def _remove(self, flow: Flow) -> None:
        flow.version += 1
        del flow.up.flows[flow]
        del flow.down.flows[flow]
        self._share(flow.up, flow.down)

    def _share(self, up: Link, down: Link) -> None:
        """Divide two links anew among their flows."""
        changed: dict[Flow, None] = {}
        for flow, offer in _divide(up, [(flow.down_offer, flow) for flow in up.flows]):
            flow.up_offer = offer
            changed[flow] = None
        for flow, offer in _divide(down, [(flow.up_offer, flow) for flow in down.flows]):
            flow.down_offer = offer
            changed[flow] = None
        for flow in changed:
            rate = max(_MIN_RATE, min(flow.up_offer, flow.down_offer))
            if abs(rate - flow.rate) <= 0.02 * flow.rate:
                continue
            flow.left -= flow.rate * (self.now - flow.since)
            flow.since, flow.rate = self.now, rate
            flow.ends_at = self.now + max(0.0, flow.left) / rate
            if flow.ends_at < flow.due:
                self._look(flow)

    def _look(self, flow: Flow) -> None:
        """Have a flow looked at when it ends at its present rate."""
        flow.version += 1
        flow.due = flow.ends_at
        self._count += 1
        heapq.heappush(self._events, (flow.due, self._count, None, flow, flow.version))


def _divide(link: Link, flows: list[tuple[float, Flow]]) -> list[tuple[Flow, float]]:
    """Offer each flow an even share, and the rest of what the others cannot use. flows: what the other link offers."""
    left, capacity = len(flows), link.capacity
    if not left:
        return []
    offers = []
    if left > 1:
        flows.sort(key=_other_offer)
    for other, flow in flows:
        share = capacity / left
        offers.append((flow, share))
        capacity -= min(other, share)
        left -= 1
    return offers


def _other_offer(entry: tuple[float, Flow]) -> float:
    return entry[0]
