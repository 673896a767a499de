"""One row a Pod: what the Pod waits for, how far its download is, when it will be done. Pure: documents in, rows out.

Rows come from the Pod itself, as a user would read it. Temporal adds detail where the condition is older than the
latest heartbeat, or not written yet.
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
    """None in a phase without a download."""
    rate: str = ""
    eta: str = ""
    words: str = ""
    """The first line of the Pod's own message."""

    @property
    def settled(self) -> bool:
        """Whether nothing more happens without a person: the Pod runs, or is held with a reason."""
        return self.phase in (RUNNING, Phase.AWAITING_OPERATOR)


def row(role: Role, pod: Document, workflow_id: str, picture: Picture) -> Row:
    condition = pods.condition(pod)
    words = str(condition.get("message", "")).partition("\n")[0]
    if node := pods.node(pod):
        return Row(role.name, role.annotation, RUNNING, node, 100, words=words)
    status = picture.statuses.get(workflow_id)
    phase = str(condition.get("reason") or (status.phase if status else "") or "Seen")
    if status and phase != Phase.AWAITING_OPERATOR:
        phase = status.phase  # only phases that last are written to the Pod
    node = status.node if status else ""
    if phase != Phase.WARMING:
        return Row(role.name, role.annotation, phase, node, words=words)
    percent = float(match[1]) if (match := _PERCENT.search(words)) else 0.0
    parts = [picture.downloads.get((node, digest)) for digest in (status.digests if status else [])]
    return _with_heartbeats(
        Row(role.name, role.annotation, phase, node, percent, words=words), [part for part in parts if part]
    )


def _with_heartbeats(row: Row, parts: list[StreamProgress]) -> Row:
    total, done = sum(part.total_bytes for part in parts), sum(part.done_bytes for part in parts)
    rate = sum(part.bytes_per_s for part in parts)
    return Row(
        row.pod,
        row.dataset,
        row.phase,
        row.node,
        # The condition may be newer than the heartbeat: a percentage never falls.
        max(row.percent or 0.0, 100 * done / total if total else 0.0),
        f"{format_bytes(rate)}/s" if rate else "",
        format_seconds((total - done) / rate) if rate else "",
        row.words,
    )
