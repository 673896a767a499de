"""Why the main path of a `WarmPod` leaves its node or its attempt. `workflow` decides what follows each."""

from __future__ import annotations

from kube_cache.contracts.common import ErrorInfo


class NodeLost(Exception):
    """The seat's node has no living agent: place the Pod on another node."""


class SeatMoved(Exception):
    """The seat no longer stands on the node that is warmed; str() says why. Place the Pod again."""


class DiskRejected(Exception):
    """The node's disk has no free space for the data, or is faulty: place the Pod on another node."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class NoAlternativeNode(Exception):
    """The Pod fits only nodes whose disks rejected its data: wait for one of those disks."""


class RetryRequested(Exception):
    """The user said `retry` or changed the request: resolve again."""


class SourceChanged(Exception):
    """The source is no longer what was resolved: resolve again."""


class NeedsOperator(Exception):
    """An error that a retry alone cannot mend: wait for a person."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error
