"""What users and the watcher ask of a `WarmPod`: stop, retry, and how long the Pod may wait. Pure: no call of Temporal.

Signal handlers only note a request here; `life` acts on it. The gate time counts while our gate alone holds the Pod and
nobody stopped us: it stands still while other controllers hold gates, and while the Pod is paused, cancelled or without
its annotation. So `on-timeout: release` never starts a Pod that somebody told us to leave alone.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from kube_cache.contracts.common import ErrorInfo, PodView, Policy
from kube_cache.contracts.warm_pod_state import RequestState
from workflows.warm_pod import options


class Stop(StrEnum):
    """Why the main path is to stop."""

    GONE = "gone"
    """A claim: the Pod was deleted or has ended."""
    UNGATED = "ungated"
    """A claim: another controller or a person removed our gate."""
    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    """The Pod's gate time is over."""
    DATASET_REMOVED = "dataset-removed"
    """The annotation that names the dataset was removed; the gate is there."""
    CHANGED = "changed"
    """The annotation names another dataset."""
    ERROR = "error"
    """An error that a retry alone cannot mend."""


_CLAIMS = frozenset({Stop.GONE, Stop.UNGATED})
_CLOCK_STANDS_STILL = frozenset({Stop.CANCEL, Stop.PAUSE, Stop.DATASET_REMOVED})


class Requests:
    def __init__(self, view: PodView, policy: Policy, state: RequestState) -> None:
        self._policy = policy
        self._state = state
        self.view = view
        self.releasing = False
        """The releasing patch is in flight, or has succeeded: a missing gate is our own doing."""
        self.released = False
        self.has_ended = False
        """The API server says that nothing is left to do for the Pod."""
        self.resync_requested = False
        self._button_pressed = False

    def begin(self) -> None:
        """Act on what the Pod carries when the workflow starts."""
        if not self._state.has_begun:
            self._state.has_begun = True
            self._act_on(self.view.action)
            self._judge(self.view)

    # What stops the main path.

    @property
    def stop(self) -> Stop | None:
        return Stop(self._state.stop) if self._state.stop else None

    @property
    def claims_end(self) -> bool:
        """Whether somebody says that the Pod is gone or ungated; the API server has the last word."""
        return self.stop in _CLAIMS

    @property
    def must_stop(self) -> bool:
        return self.stop is not None and (self.claims_end or not self.releasing)

    @property
    def must_halt(self) -> bool:
        """Whether the main path must begin nothing new."""
        return self.has_ended or (self.must_stop and not self.claims_end)

    def request_stop(self, reason: Stop) -> None:
        """A claim is replaced by nothing less. Once the Pod is released, only its end stops the main path."""
        if reason in (Stop.CANCEL, Stop.PAUSE):
            self._state.held = reason
            self._state.retry_requested = False  # an earlier one; a later one counts
        if self.released and reason != Stop.GONE:
            return
        if self.stop == Stop.GONE or (self.stop == Stop.UNGATED and reason != Stop.GONE):
            return
        self._state.stop = reason

    def on_cancel_button(self, *, keep_retry: bool) -> None:
        """The UI's cancel button means what our signal `cancel` means.

        keep_retry: a retry came in the same workflow task. The SDK hands over signals first, so which came first is not
        known; a retry after a cancel is the likelier, and a cancel can be repeated.
        """
        self._button_pressed = True
        retry = self.retry_requested
        self.request_stop(Stop.CANCEL)
        if keep_retry:
            self._state.retry_requested, self._state.held = retry, ""

    @property
    def wants_new_run(self) -> bool:
        """Temporal takes one cancel a run: after the button was pressed, only a new run can be cancelled again."""
        return self._button_pressed and self.parked is not None

    def take_stop(self) -> Stop | None:
        reason, self._state.stop = self.stop, ""
        return reason

    @property
    def held(self) -> Stop | None:
        """The `pause` or `cancel` that a released Pod obeys, while its data is fetched where it was bound."""
        return Stop(self._state.held) if self.released and self._state.held else None

    # What the Pod waits for when its main path has stopped.

    @property
    def parked(self) -> Stop | None:
        return Stop(self._state.parked) if self._state.parked else None

    @property
    def error(self) -> ErrorInfo | None:
        return self._state.error

    @property
    def goes_cold(self) -> bool:
        return self._state.goes_cold

    def park(self, reason: Stop, error: ErrorInfo | None = None) -> None:
        """Wait for a person."""
        self._state.parked, self._state.error = reason, error
        if reason in (Stop.ERROR, Stop.TIMEOUT):
            self._state.retry_requested = False

    def note_timeout(self) -> None:
        self._state.timed_out = True

    def note_released(self) -> None:
        self.released = self.releasing = True
        if self.stop != Stop.GONE:
            self._state.stop = ""
        self._state.parked, self._state.error = "", None

    def go_cold(self) -> None:
        self._state.goes_cold, self._state.parked, self._state.error = True, "", None

    def unpark(self, now: datetime) -> None:
        """Go on. A retry grants the Pod its gate time anew; after a pause the rest of it counts."""
        if self.parked not in (Stop.PAUSE, Stop.DATASET_REMOVED) or self._state.timed_out:
            self._restart_clock(now)
        state = self._state
        state.parked, state.error, state.retry_requested, state.goes_cold = "", None, False, False

    # Retry and resync.

    @property
    def retry_requested(self) -> bool:
        return self._state.retry_requested

    def request_retry(self) -> None:
        self._state.retry_requested, self._state.held = True, ""

    def take_retry(self) -> bool:
        requested, self._state.retry_requested = self._state.retry_requested, False
        return requested

    def take_resync(self) -> bool:
        requested, self.resync_requested = self.resync_requested, False
        return requested

    # What the watcher, or a look at the API server, tells.

    def _act_on(self, value: str) -> None:
        action = options.action(value)
        if action in ("retry", "resume"):
            self.request_retry()
        elif action in (Stop.CANCEL, Stop.PAUSE):
            self.request_stop(Stop(action))

    def on_pod_changed(self, view: PodView) -> None:
        before, self.view = self.view, view
        if view.action != before.action:
            self._act_on(view.action)
        if options.differ(before, view):
            self.request_retry()  # a user who corrects an annotation need not signal as well
            if before.dataset and view.dataset != before.dataset and self.parked is None and self.stop is None:
                self.request_stop(Stop.CHANGED)
        self._judge(view)

    def _judge(self, view: PodView) -> None:
        if view.deleting:
            self.request_stop(Stop.GONE)
        elif not view.gated:
            if not self.releasing:
                self.request_stop(Stop.UNGATED)
        elif not view.dataset:
            if self.parked != Stop.DATASET_REMOVED:
                self.request_stop(Stop.DATASET_REMOVED)
            self._state.retry_requested = False
        elif self.stop == Stop.DATASET_REMOVED:  # put back before anybody acted
            self._state.stop = Stop.CHANGED

    # The gate time.

    @property
    def clock_should_run(self) -> bool:
        return not (self.view.foreign_gates or self.released or self.parked in _CLOCK_STANDS_STILL)

    @property
    def clock(self) -> tuple[bool, float | None]:
        """What the end of the gate time depends on; it is to be computed anew when this changes."""
        return self.clock_should_run, options.gate_time_s(self.view, self._policy)

    def tick(self, now: datetime) -> None:
        """Start or stop the clock."""
        state = self._state
        if self.clock_should_run:
            state.running_since = state.running_since or now.timestamp()
        elif state.running_since:
            state.spent_s += now.timestamp() - state.running_since
            state.running_since = 0

    def gate_time_left_s(self, now: datetime) -> float | None:
        """Seconds until the Pod's gate time is over, at least a thousandth; None without a limit, or if it stands."""
        state = self._state
        limit_s = options.gate_time_s(self.view, self._policy)
        if limit_s is None or not state.running_since or state.timed_out or self.stop == Stop.TIMEOUT:
            return None
        return max(0.001, limit_s - state.spent_s - (now.timestamp() - state.running_since))

    def _restart_clock(self, now: datetime) -> None:
        state = self._state
        state.spent_s, state.timed_out = 0, False
        state.running_since = now.timestamp() if state.running_since else 0
