"""A Lease (coordination.k8s.io) that at most one of several processes holds: take it, renew it, give it back.

Whether the holder is alive is judged by our own clock: a record that has not changed for its duration while we watched
is that of a dead holder. The clocks of two machines are never compared. The Lease object itself, which is never
deleted, also owns the seats. Our own, because the election of the `kubernetes` package compares wall clocks and does
not give the Lease back at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found

_API = "coordination.k8s.io/v1"


class _Record(NamedTuple):
    holder: str
    renewed: str


class Lease:
    """Every method blocks, and raises ApiError. Calls must not overlap."""

    def __init__(self, client: KubeClient, namespace: str, name: str, *, identity: str, duration_s: float) -> None:
        """identity: of this process; a process that restarts under the same one takes its Lease back at once."""
        self._client = client
        self._folder = f"/apis/{_API}/namespaces/{namespace}/leases"
        self._path = f"{self._folder}/{name}"
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration_s = duration_s
        self._seen: _Record | None = None
        self._seen_at = 0.0
        """Local time at which the record was first seen, seconds."""
        self._uid = ""

    @property
    def holder(self) -> str:
        """Identity of the process that held the Lease at the last look; empty for none. Any thread may call."""
        return "" if self._seen is None else self._seen.holder

    def owner_reference(self) -> Json | None:
        """Return the reference by which the Lease object owns another object of its namespace; None until it is read.

        Any thread may call.
        """
        if not self._uid:
            return None
        return {"apiVersion": _API, "kind": "Lease", "name": self._name, "uid": self._uid, "controller": True}

    def ensure(self) -> None:
        """Create the Lease object, held by nobody, if it does not exist."""
        try:
            self._read()
        except ApiError as error:
            if not is_not_found(error):
                raise
            self._write(lambda: self._client.create(self._folder, self._body({})))  # or another operator was quicker
            self._read()

    def try_hold(self) -> bool:
        """Take or renew the Lease, in one attempt. Return whether this process holds it."""
        try:
            lease = self._read()
        except ApiError as error:
            if not is_not_found(error):
                raise
            return self._write(lambda: self._client.create(self._folder, self._body(self._held({}))))
        spec: Json = lease.get("spec") or {}
        record = _Record(spec.get("holderIdentity") or "", spec.get("renewTime") or "")
        if record != self._seen:
            self._seen, self._seen_at = record, time.monotonic()
        duration_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
        if record.holder not in ("", self._identity) and time.monotonic() - self._seen_at < duration_s:
            return False
        return self._write(lambda: self._client.replace(self._path, {**lease, "spec": self._held(spec)}))

    def release(self) -> None:
        """Give the Lease back if this process holds it, so that another takes over at once."""
        lease = self._read()
        spec: Json = lease.get("spec") or {}
        if spec.get("holderIdentity") == self._identity:
            self._write(lambda: self._client.replace(self._path, {**lease, "spec": {**spec, "holderIdentity": ""}}))

    def _read(self) -> Json:
        lease = self._client.request("GET", self._path)
        self._uid = lease["metadata"]["uid"]
        return lease

    def _write(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except ApiError as error:
            if error.status == 409:
                return False  # somebody else was first
            raise
        return True

    def _held(self, spec: Json) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        held = {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration_s)),
            "renewTime": now,
        }
        if spec.get("holderIdentity") != self._identity:
            held |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return held

    def _body(self, spec: Json) -> Json:
        return {
            "apiVersion": _API,
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }
