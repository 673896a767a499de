"""The operator's watches: which Pods and seats are watched, with which selectors, and the gated Pods as they are known.

Events are handled on the event loop that makes the watches; the connections live in threads of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from kube_cache import names
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.pods import PodFacts, pod_facts, seat_facts
from kube_cache.kube.reflector import Reflector
from watcher.pods import PodWatcher


class Watches:
    def __init__(self, kube: KubeClient, watcher: PodWatcher, *, seat_namespace: str) -> None:
        loop = asyncio.get_running_loop()

        def on_loop(handle: Callable[[str, Any], None]) -> Callable[[str, Any], Any]:
            return lambda event, item: loop.call_soon_threadsafe(handle, event, item)

        # Annotations and gates cannot be selected, so the first watch sees every Pending Pod that we have not released.
        self._unreleased: Reflector[PodFacts] = Reflector(
            kube,
            "pods",
            project=pod_facts,
            handler=on_loop(watcher.on_pod),
            label_selector=f"{names.MANAGED_LABEL}!=true",
            field_selector="status.phase=Pending",
        )
        self._reflectors: list[Reflector[Any]] = [
            self._unreleased,
            Reflector(
                kube,
                "pods",
                project=pod_facts,
                handler=on_loop(watcher.on_pod),
                label_selector=f"{names.MANAGED_LABEL}=true",
            ),
            Reflector(
                kube,
                "pods",
                project=seat_facts,
                handler=on_loop(watcher.on_seat),
                namespace=seat_namespace,
                label_selector=names.SEAT_LABEL,
            ),
        ]

    def start(self, stopping: threading.Event) -> None:
        """Start one daemon thread per watch; each ends some time after `stopping` is set."""
        for reflector in self._reflectors:
            threading.Thread(target=reflector.run, args=(stopping,), name="reflector", daemon=True).start()

    def get_gated_pod(self, uid: str) -> Json | None:
        """Return the JSON of a Pod that our gate holds; None if the watch knows no such Pod. Any thread may call.

        The JSON is as old as a watch may be: for reads that a resource version or a later signal corrects.
        """
        pod = self._unreleased.get(uid)
        return None if pod is None else pod.raw
