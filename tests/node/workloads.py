"""Pods of users on the real node: what they are made of, and what their containers found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kube_cache import names
from tools.stack.api import Document
from tools.stack.pods import Pods

IMAGE = "busybox:1"


def shell(name: str, script: str, **spec: Any) -> Document:
    """Return a Pod that runs a shell script once, as `main`."""
    container = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-ec", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def asking(name: str, datasets: str, script: str, **spec: Any) -> Document:
    """Return the smallest Pod that asks for datasets: one annotation more."""
    pod = shell(name, script, **spec)
    return {**pod, "metadata": {"name": name, "annotations": {names.DATASET_ANNOTATION: datasets}}}


def check_sums(folder: str, content: Mapping[str, bytes]) -> str:
    """Return shell lines that end a script unless the folder holds these files, each byte, and no other file."""
    sums = "\n".join(f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in content.items())
    return f"""
      cd "{folder}"
      test "$(find . -type f | wc -l)" = {len(content)}
      sha256sum -c <<'SUMS'
{sums}
SUMS
"""


def ended(pods: Pods, name: str, timeout_s: float = 120) -> str:
    """Wait until the Pod's containers have ended; the phase."""
    done = ("Succeeded", "Failed")
    seen = pods.wait(name, lambda pod: pod["status"].get("phase") in done, "has ended", timeout_s)
    return str(seen["status"]["phase"])


def running(pods: Pods, name: str, restarts: int, timeout_s: float = 120) -> Document:
    """Wait until the Pod's first container runs, after at least that many restarts; its status."""

    def runs(pod: Document) -> bool:
        (status, *_) = pod["status"].get("containerStatuses") or [{}]
        return bool(status.get("state", {}).get("running")) and status["restartCount"] >= restarts

    seen = pods.wait(name, runs, f"runs after {restarts} restarts", timeout_s)
    return dict(seen["status"]["containerStatuses"][0])
