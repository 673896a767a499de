"""The API server's own record of the soak's Pods, read as it grows: who was created, released and deleted, and when.

A release is known from the audit log even where the Pod was gone before anybody could look at it. The observer uses no
code of the product: what a releasing patch looks like is written here once more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

GATE = "kube-cache.openai.com/gate"
NODE = "kube-cache.openai.com/node"
SNAPSHOT = "kube-cache.openai.com/snapshot"
DATASET = "x-openai/required-dataset"
ON_TIMEOUT = "kube-cache.openai.com/on-timeout"

Key = tuple[str, str]
"""(namespace, name): names are never used twice in a soak."""


@dataclass
class Release:
    """The removal of our gate from a Pod. at: seconds since the epoch, when the API server had the request."""

    key: Key
    at: float
    by: str
    node: str = ""
    digests: list[str] = field(default_factory=list)


@dataclass
class Records:
    """What the log has told so far. `read` goes on where the last call ended."""

    log: Path
    asked: dict[Key, dict[str, str]] = field(default_factory=dict)
    """Pod → annotations as its owner wrote them."""
    deleted: dict[Key, float] = field(default_factory=dict)
    """Pod → when its deletion was asked for, whoever asked."""
    maybe: dict[Key, Release] = field(default_factory=dict)
    """Pod → a releasing patch whose answer nobody heard; it may have been carried out."""
    _offset: int = 0

    def read(self) -> list[Release]:
        """Return the releases since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            lines = log.read()
        complete = lines[: lines.rfind(b"\n") + 1]  # the last line may be half written
        self._offset += len(complete)
        return [release for line in complete.split(b"\n") if line and (release := self._take(line))]

    def _take(self, line: bytes) -> Release | None:
        try:
            event = json.loads(line)
        except ValueError:
            return None  # a line that was cut by the death of the API server
        target = event["objectRef"]
        body = event.get("requestObject")
        at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
        code = event.get("responseStatus", {}).get("code", 0)
        key = (target.get("namespace", ""), target.get("name") or _name(body))
        if event["verb"] == "delete" and code < 300:
            self.deleted.setdefault(key, at)
        if event["verb"] == "create" and not target.get("subresource") and isinstance(body, dict):
            self.asked[key] = dict(body.get("metadata", {}).get("annotations") or {})
        if event["verb"] != "patch" or target.get("subresource") or not _removes_gate(body):
            return None
        annotations = body.get("metadata", {}).get("annotations") or {}
        digests = [digest for digest in annotations.get(SNAPSHOT, "").split(",") if digest]
        release = Release(key, at, event["user"]["username"], annotations.get(NODE, ""), digests)
        if 200 <= code < 300:
            return release
        if code == 504:
            self.maybe[key] = release
        return None


def _removes_gate(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    gates = (body.get("spec") or {}).get("schedulingGates")
    if not isinstance(gates, list):
        return False
    return any(gate.get("$patch") == "delete" and gate.get("name") == GATE for gate in gates)


def _name(body: Any) -> str:
    return str(body.get("metadata", {}).get("name", "")) if isinstance(body, dict) else ""
