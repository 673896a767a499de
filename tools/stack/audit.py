"""The API server's own record of which user changed which Pod.

"Released exactly once" is a claim about requests, and the Pod afterwards cannot prove it. The audit log can: it holds
each write to a Pod with its user, body and answer. Only writes of Pods are recorded; reads would be most of the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kube_cache import names

_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        # With the body, which tells a release from another patch; of a binding the fact is enough.
        {
            "level": "Request",
            "verbs": ["patch", "create", "delete", "update"],
            "resources": [{"resources": ["pods", "pods/status"]}],
        },
        {"level": "Metadata", "verbs": ["create"], "resources": [{"resources": ["pods/binding"]}]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Write:
    """A write that reached the API server, whatever the answer was."""

    user: str
    verb: str
    namespace: str
    name: str
    subresource: str
    status: int
    body: Any

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def was_abandoned(self) -> bool:
        """Whether the client was gone before the answer; the write may have been carried out all the same."""
        return self.status == HTTPStatus.GATEWAY_TIMEOUT

    @property
    def would_remove_our_gate(self) -> bool:
        """Whether this is a patch that removes the product's gate, as the product writes it; successful or not."""
        if self.verb != "patch" or self.subresource or isinstance(self.body, list):  # a list: a JSON Patch of others
            return False
        return any(
            gate.get("$patch") == "delete" and gate.get("name") == names.GATE
            for gate in (self.body or {}).get("spec", {}).get("schedulingGates") or []
        )


class Audit:
    def __init__(self, folder: Path) -> None:
        self._policy = folder / "audit-policy.json"
        self._log = folder / "audit.log"
        self._policy.write_text(json.dumps(_POLICY))
        self._log.touch()

    def record_only(self, user: str) -> None:
        """From the API server's next start on, record each request of this user, without bodies, and nobody else's."""
        rules = [{"level": "Metadata", "users": [user]}, {"level": "None"}]
        self._policy.write_text(json.dumps({**_POLICY, "rules": rules}))

    def requests(self) -> Iterator[tuple[str, str]]:
        """Yield (verb, resource with its subresource) of each request in the log."""
        with self._log.open() as lines:
            for line in lines:
                if line.endswith("\n"):  # the last line may be half written
                    event = json.loads(line)
                    target = event.get("objectRef", {})
                    yield event["verb"], "/".join(filter(None, (target.get("resource"), target.get("subresource"))))

    @property
    def arguments(self) -> list[str]:
        """For the API server. Blocking mode: a write is in the log before its client has the answer."""
        return [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}", "--audit-log-mode=blocking"]

    def writes(self, namespace: str, name: str = "") -> Iterator[Write]:
        """Yield the writes to the Pods of a namespace, in the order in which they were answered."""
        complete, _, _ = self._log.read_text().rpartition("\n")  # the last line may be half written
        for line in complete.split("\n"):  # not splitlines(): a body may hold other ends of lines
            if f'"namespace":"{namespace}"' not in line:
                continue
            event = json.loads(line)
            target = event["objectRef"]
            if target.get("namespace") == namespace and (not name or target.get("name") == name):
                yield Write(
                    user=event["user"]["username"],
                    verb=event["verb"],
                    namespace=namespace,
                    name=target.get("name", ""),
                    subresource=target.get("subresource", ""),
                    status=event.get("responseStatus", {}).get("code", 0),
                    body=event.get("requestObject"),
                )

    def releases(self, namespace: str, name: str) -> list[Write]:
        """Return the patches that removed the product's gate from a Pod; a patch that was answered 409 removed nothing.

        If none succeeded, the last abandoned one stands for them: one of them removed the gate of a Pod without a gate.
        """
        attempts = [write for write in self.writes(namespace, name) if write.would_remove_our_gate]
        abandoned = [write for write in attempts if write.was_abandoned]
        return [write for write in attempts if write.succeeded] or abandoned[-1:]
