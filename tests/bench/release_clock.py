"""When things happened to Pods and seats, as a watcher in the bench's own process saw them.

Two watches over raw lines, a thread each. Only first times are kept: of a Pod that it appeared, lost our gate, was
bound, went away; of a seat that it appeared, was bound, went away.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from kube_cache import names
from kube_cache.kube.client import ApiError, Json, KubeClient, resource_path

_WATCH_S = 3600
_AGAIN_S = 0.1


@dataclass
class Times:
    """Seconds since the epoch; 0 = not yet."""

    sent: float = 0
    """Before the POST was sent."""
    answered: float = 0
    seen: float = 0
    seat_seen: float = 0
    seat_bound: float = 0
    ungated: float = 0
    bound: float = 0
    seat_gone: float = 0
    gone: float = 0
    node: str = ""

    @property
    def exists(self) -> float:
        """The first sign that the Pod is there: the answer to its creation, or its event if that came before."""
        return min(when for when in (self.answered, self.seen) if when)


class Clock:
    """By Pod uid. `wait_*` block until the watch has seen it."""

    def __init__(self, kubeconfig: Path, namespace: str, seats: str) -> None:
        configuration = kubernetes_client.Configuration()
        kubernetes_config.load_kube_config(str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        self._client = KubeClient(configuration)
        self.times: dict[str, Times] = {}
        self._changed = threading.Condition()
        for where, take in ((namespace, self._take_pod), (seats, self._take_seat)):
            threading.Thread(target=self._watch, args=(where, take), name=f"watch-{where}", daemon=True).start()

    def sent(self, uid: str, sent: float, answered: float) -> None:
        with self._changed:
            times = self._of(uid)
            times.sent, times.answered = sent, answered

    def wait(self, uids: list[str], mark: str, timeout_s: float) -> None:
        """Until all of them have this time. Raises TimeoutError."""
        with self._changed:
            done = self._changed.wait_for(lambda: all(getattr(self._of(uid), mark) for uid in uids), timeout_s)
            if not done:
                late = [uid for uid in uids if not getattr(self._of(uid), mark)]
                raise TimeoutError(
                    f"{len(late)} of {len(uids)} Pods have no {mark!r} after {timeout_s} s: {late[:3]} …"
                )

    def _of(self, uid: str) -> Times:
        return self.times.setdefault(uid, Times())

    def _watch(self, namespace: str, take: Callable[[str, Json, float], None]) -> None:
        """A server under a burst ends the watch of whom it finds slow: then list, and watch again from there."""
        path = resource_path("pods", namespace)
        while True:
            try:
                version = ""
                for page in self._client.pages("pods", namespace):
                    version = page.resource_version
                    for item in page.items:
                        self._note("MODIFIED", item, take)
                query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_S)}
                for line in self._client.watch_lines(path, query):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    self._note(event["type"], event["object"], take)
            except ApiError:
                time.sleep(_AGAIN_S)  # the thread ends with the process

    def _note(self, kind: str, item: Json, take: Callable[[str, Json, float], None]) -> None:
        now = time.time()
        with self._changed:
            take(kind, item, now)
            self._changed.notify_all()

    def _take_pod(self, kind: str, pod: Json, now: float) -> None:
        times = self._of(pod["metadata"]["uid"])
        times.seen = times.seen or now
        if kind == "DELETED":
            times.gone = times.gone or now
            return
        gates = [gate["name"] for gate in pod["spec"].get("schedulingGates", [])]
        if names.GATE not in gates:
            times.ungated = times.ungated or now
        if node := pod["spec"].get("nodeName"):
            times.bound, times.node = times.bound or now, node

    def _take_seat(self, kind: str, seat: Json, now: float) -> None:
        workflow = (seat["metadata"].get("annotations") or {}).get(names.SEAT_WORKFLOW_ANNOTATION, "")
        if not workflow:
            return
        times = self._of(workflow.rpartition("/")[2])
        times.seat_seen = times.seat_seen or now
        if kind == "DELETED":
            times.seat_gone = times.seat_gone or now
        elif seat["spec"].get("nodeName"):
            times.seat_bound = times.seat_bound or now
