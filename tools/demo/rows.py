"""One row per Pod: what it waits for, how far it is and when it will be done. Pure: documents in, rows out.

Everything is read from the Pod itself, as a user would; Temporal only sharpens it, where the condition is older than
the latest heartbeat or not written yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kube_cache.contracts.common import Phase
from kube_cache.contracts.node import StreamProgress
from kube_cache.units import format_bytes, format_seconds
from tools.demo.inside import Picture
from tools.demo.plan import Role
from tools.stack import pods
from tools.stack.api import Document

RUNNING = "Running"
_PERCENT = re.compile(r"(\d+) % of ")


@dataclass(frozen=True)
class Row:
    pod: str
    dataset: str
    phase: str
    node: str = ""
    percent: float | None = None
    """None where it means nothing."""
    rate: str = ""
    eta: str = ""
    words: str = ""
    """What the Pod says, in its own words; its first sentence."""

    @property
    def settled(self) -> bool:
        """Nothing more happens without a person: it runs, or it is held with a reason."""
        return self.phase in (RUNNING, Phase.AWAITING_OPERATOR)


def row(role: Role, pod: Document, workflow_id: str, picture: Picture) -> Row:
    said = pods.condition(pod)
    words = str(said.get("message", "")).partition("\n")[0]
    if node := pods.node(pod):
        return Row(role.name, role.written, RUNNING, node, 100, words=words)
    status = picture.statuses.get(workflow_id)
    phase = str(said.get("reason") or (status.phase if status else "") or "Seen")
    if status and phase != Phase.AWAITING_OPERATOR:
        phase = status.phase  # the Pod is told of phases that last; short ones pass unwritten
    node = status.node if status else ""
    if phase != Phase.WARMING:
        return Row(role.name, role.written, phase, node, words=words)
    percent = float(found[1]) if (found := _PERCENT.search(words)) else 0.0
    parts = [picture.downloads.get((node, digest)) for digest in (status.digests if status else [])]
    return _with_heartbeats(Row(role.name, role.written, phase, node, percent, words=words), [p for p in parts if p])


def _with_heartbeats(row: Row, parts: list[StreamProgress]) -> Row:
    total, done = sum(part.total_bytes for part in parts), sum(part.done_bytes for part in parts)
    rate = sum(part.bytes_per_s for part in parts)
    return Row(
        row.pod,
        row.dataset,
        row.phase,
        row.node,
        # The condition may be ahead of a heartbeat that was read before it: never backwards.
        max(row.percent or 0.0, 100 * done / total if total else 0.0),
        f"{format_bytes(rate)}/s" if rate else "",
        format_seconds((total - done) / rate) if rate else "",
        row.words,
    )
