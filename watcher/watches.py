"""Which Pods and seats are watched, with which selectors."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from kube_cache import names
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import pod_facts, seat_facts
from kube_cache.kube.reflector import Reflector
from watcher.pods import PodWatcher


def start_watches(kube: KubeClient, pods: PodWatcher, *, seat_namespace: str, stopping: threading.Event) -> None:
    """Start one daemon thread per watch; events are handled on the running event loop."""
    loop = asyncio.get_running_loop()

    def on_loop(handle: Any) -> Any:
        return lambda event, item: loop.call_soon_threadsafe(handle, event, item)

    reflectors: list[Reflector[Any]] = [
        Reflector(
            kube,
            "pods",
            project=pod_facts,
            handler=on_loop(pods.on_pod),
            label_selector=f"{names.MANAGED_LABEL}!=true",
            field_selector="status.phase=Pending",
        ),
        Reflector(
            kube, "pods", project=pod_facts, handler=on_loop(pods.on_pod), label_selector=f"{names.MANAGED_LABEL}=true"
        ),
        Reflector(
            kube,
            "pods",
            project=seat_facts,
            handler=on_loop(pods.on_seat),
            namespace=seat_namespace,
            label_selector=names.SEAT_LABEL,
        ),
    ]
    for reflector in reflectors:
        threading.Thread(target=reflector.run, args=(stopping,), name="reflector", daemon=True).start()
