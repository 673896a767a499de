"""The operator's watches: which Pods and seats are watched, with which selectors, and the gated Pods as they are known.

Events are handled on the event loop that makes the watches; the connections live in threads of their own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from kube_cache import names
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.nodes import NodeFacts, node_facts
from kube_cache.kube.pods import PodFacts, SeatFacts, seat_facts
from kube_cache.kube.reflector import MAX_STILL_S, Reflector
from kube_cache.telemetry import metrics
from watcher.nodes import NodeWatcher
from watcher.pods import PodWatcher


class Watches:
    def __init__(
        self, kube: KubeClient, watcher: PodWatcher, *, seat_namespace: str, nodes: NodeWatcher | None = None
    ) -> None:
        """nodes: hears of the nodes, and of the seats that are on them."""
        loop = asyncio.get_running_loop()

        def on_loop(name: str, handle: Callable[[str, Any], None]) -> Callable[[str, Any], Any]:
            lag = metrics.WATCH_LAG.labels(name)

            def run(event: str, item: Any, came_at: float) -> None:
                handle(event, item)
                lag.observe(time.monotonic() - came_at)

            return lambda event, item: loop.call_soon_threadsafe(run, event, item, time.monotonic())

        def on_seat(event: str, seat: SeatFacts) -> None:
            watcher.on_seat(event, seat)
            if nodes is not None:
                nodes.on_seat(event, seat)

        # Annotations and gates cannot be selected, so the first watch sees every Pending Pod that we have not released.
        self._unreleased: Reflector[PodFacts] = Reflector(
            kube,
            "pods",
            name="unreleased-pods",
            project=watcher.read_facts,
            handler=on_loop("unreleased-pods", watcher.on_pod),
            label_selector=f"{names.MANAGED_LABEL}!=true",
            field_selector="status.phase=Pending",
        )
        self._released: Reflector[PodFacts] = Reflector(
            kube,
            "pods",
            name="released-pods",
            project=watcher.read_facts,
            handler=on_loop("released-pods", watcher.on_pod),
            label_selector=f"{names.MANAGED_LABEL}=true",
            # A Pod that ends leaves the selection, which looks like a deletion and is confirmed like one. The ended
            # Pods of Jobs, of which a cluster keeps thousands, cost nothing.
            field_selector="status.phase!=Succeeded,status.phase!=Failed",
        )
        self._nodes: Reflector[NodeFacts] = Reflector(
            kube,
            "nodes",
            name="nodes",
            project=node_facts,
            handler=(lambda *_: None) if nodes is None else on_loop("nodes", nodes.on_node),
        )
        self._reflectors: list[Reflector[Any]] = [
            self._unreleased,
            self._released,
            Reflector(
                kube,
                "pods",
                name="seats",
                project=seat_facts,
                handler=on_loop("seats", on_seat),
                namespace=seat_namespace,
                label_selector=names.SEAT_LABEL,
            ),
            self._nodes,
        ]

        self._threads: dict[str, threading.Thread] = {}

    def start(self, stopping: threading.Event) -> None:
        """Start one daemon thread per watch; each ends some time after `stopping` is set."""
        for reflector in self._reflectors:
            thread = threading.Thread(target=reflector.run, args=(stopping,), name=reflector.name, daemon=True)
            self._threads[reflector.name] = thread
            thread.start()

    def unsynced(self) -> list[str]:
        """Return the names of the watches that have not handed on their first list yet."""
        return [reflector.name for reflector in self._reflectors if not reflector.synced.is_set()]

    def find_dead(self) -> str:
        """Say which watch has died, and how; empty while all live. A watch that meets errors and tries again lives."""
        for reflector in self._reflectors:
            thread = self._threads.get(reflector.name)
            if thread is not None and not thread.is_alive():
                return f"the thread of the watch of {reflector.name} has ended"
            if thread is not None and reflector.still_s() > MAX_STILL_S:
                return f"the watch of {reflector.name} has done nothing for {reflector.still_s():.0f} s"
        return ""

    def nodes(self) -> list[NodeFacts]:
        """Return the cluster's nodes as the watch has them. Any thread may call."""
        return self._nodes.all()

    def get_group(self, namespace: str, group: str) -> list[PodFacts] | None:
        """Return the Pods of a namespace that name a group; None before each Pod was listed. Any thread may call."""
        watches = (self._unreleased, self._released)
        if not all(watch.synced.is_set() for watch in watches):
            return None
        found: dict[str, PodFacts] = {}  # a Pod that crosses from one watch into the other is in both for a moment
        for pod in (pod for watch in watches for pod in watch.all()):
            known = found.get(pod.ref.uid)
            if pod.view.group == group and pod.ref.namespace == namespace:
                found[pod.ref.uid] = pod if known is None or known.version < pod.version else known
        return list(found.values())

    def get_gated_pod(self, uid: str) -> Json | None:
        """Return the JSON of a Pod that our gate holds; None if the watch knows no such Pod. Any thread may call.

        The JSON is as old as a watch may be: for reads that a resource version or a later signal corrects.
        """
        pod = self._unreleased.get(uid) or self._released.get(uid)  # the label may come from a template
        return None if pod is None else pod.raw
