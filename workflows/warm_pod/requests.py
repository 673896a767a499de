"""What users and the watcher ask of a `WarmPod`: stop, retry, and how long the Pod may wait. Pure: no call of Temporal.

Signal handlers only note a request here; the main path in `workflow` acts on it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from kube_cache.contracts.common import PodView, Policy
from workflows.warm_pod import options


class Stop(StrEnum):
    """Why the main path is to stop."""

    GONE = "gone"
    """The Pod was deleted or has ended."""
    UNGATED = "ungated"
    """Another controller or a person removed our gate."""
    COLD = "cold"
    """The Pod was released without its data."""
    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    """The Pod's gate time is over."""


_FINAL = frozenset({Stop.GONE, Stop.UNGATED, Stop.COLD})


class Requests:
    def __init__(self, view: PodView, policy: Policy, now: datetime) -> None:
        """now: start of the Pod's gate time."""
        self._policy = policy
        self._gated_since = now
        self.view = view
        self.stop: Stop | None = None
        self.retry_requested = False
        self.releasing = False
        """The releasing patch has begun: only the Pod's end stops the workflow now, and a missing gate is our own
        doing.
        """

    @property
    def have_ended(self) -> bool:
        """Whether nothing is left to do for the Pod."""
        return self.stop in _FINAL

    def request_stop(self, reason: Stop) -> None:
        """A final reason is never replaced."""
        if not self.have_ended:
            self.stop = reason

    def take_stop(self) -> Stop | None:
        """Return the stop reason and clear it, together with an earlier retry."""
        reason, self.stop = self.stop, None
        self.retry_requested = False
        return reason

    def request_retry(self) -> None:
        self.retry_requested = True

    def act_on(self, action: str) -> None:
        """action: value of the `action` annotation; an unknown one does nothing."""
        if action in ("retry", "resume"):
            self.request_retry()
        elif action in (Stop.CANCEL, Stop.PAUSE):
            self.request_stop(Stop(action))

    def on_pod_changed(self, view: PodView) -> None:
        before, self.view = self.view, view
        if view.action != before.action:
            self.act_on(view.action)
        if options.differ(before, view):
            self.request_retry()  # a user who corrects an annotation need not signal as well
        if not view.gated and not self.releasing:
            self.request_stop(Stop.UNGATED)

    def on_pod_gone(self) -> None:
        self.stop = Stop.GONE

    def gate_time_left(self, now: datetime) -> timedelta | None:
        """Time until the Pod's gate time is over, at least a millisecond; None without a limit."""
        limit_s = options.gate_time_s(self.view, self._policy)
        if limit_s is None:
            return None
        return timedelta(seconds=max(0.001, limit_s - (now - self._gated_since).total_seconds()))

    def restart_gate_time(self, now: datetime) -> None:
        self._gated_since = now
