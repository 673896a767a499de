"""The phases of one run of a `WarmPod` and their times: what the Pod's trace is made of. Nothing decides by them.

A replay makes the same timeline again, so it survives a restart without being stored. It writes nothing: an interceptor
of the worker (workflows.tracing) reads it when the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kube_cache.contracts.common import Phase, PodRef

_MAX_PHASES = 500  # arbitrary: a run of some thousand events has fewer, and a trace with more is not readable
_MAX_LINKS = 16  # one for each dataset of the Pod


@dataclass(slots=True)
class Entry:
    phase: Phase
    since: float
    """Seconds since the epoch, by the workflow's clock."""
    key: str
    """What tells the step from others of its stage."""
    links: list[str] = field(default_factory=list)
    """Spans of downloads that the Pod awaited."""
    is_parent: bool = False
    """An activity was started that names the step as its parent."""


class Timeline:
    def __init__(self, pod: PodRef) -> None:
        self.pod = pod
        self.entries: list[Entry] = []
        self.bound_at = 0.0
        """When the workflow heard that the Pod is bound; 0 before."""
        self._attempts: set[int] = set()

    def enter(self, phase: Phase, now: float, attempt: int) -> None:
        """Note that a phase begins. attempt: number of the placement, by which an agent finds a download's step."""
        if (self.entries and self.entries[-1].phase == phase) or len(self.entries) >= _MAX_PHASES:
            return
        key = f"{now}/{len(self.entries)}"
        if phase is Phase.WARMING and attempt not in self._attempts:
            self._attempts.add(attempt)
            key = str(attempt)
        self.entries.append(Entry(phase, now, key))

    def link(self, span: str) -> None:
        """Link the present step to the span of a download, perhaps in the trace of another Pod."""
        if span and self.entries and len(self.entries[-1].links) < _MAX_LINKS:
            self.entries[-1].links.append(span)
