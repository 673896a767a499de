"""Why the main path of a `WarmPod` leaves its node or its attempt. `life` decides what follows each."""

from __future__ import annotations

from kube_cache.contracts.common import ErrorInfo
from kube_cache.contracts.warm_pod import PodState


class NodeLost(Exception):
    """The seat's node has no living agent: place the Pod on another node."""


class SeatMoved(Exception):
    """The seat no longer stands on the warmed node, or that takes the Pod no longer: place the Pod again."""

    def __init__(self, why: str, event: str = "") -> None:
        """event: reason of the Event; empty = `SeatLost`."""
        super().__init__(why)
        self.event = event


class DiskRejected(Exception):
    """The node's disk has no free space for the data, or is faulty: place the Pod on another node."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class NoAlternativeNode(Exception):
    """The Pod fits only nodes whose disks rejected its data: wait for one of those disks."""


class RetryRequested(Exception):
    """The user said `retry` or changed the request: resolve again."""


class WarmingHeld(Exception):
    """The user said `pause` or `cancel` while a released Pod is warmed where it was bound: give the fetch up."""


class SourceChanged(Exception):
    """The source is no longer what was resolved: resolve again."""


class NeedsOperator(Exception):
    """An error that a retry alone cannot mend: wait for a person."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class GateIsGone(Exception):
    """The API server says that our gate holds the Pod no longer: released by us or by others, or gone."""

    def __init__(self, state: PodState) -> None:
        super().__init__()
        self.state = state
