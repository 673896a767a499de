"""Prefetches as objects of Kubernetes, for tests that use nothing but `kubectl`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from kube_cache import names
from tests.e2e.promises import kubectl, workflow_status
from tools.stack import Stack
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until


class Resources:
    """`kubectl` in a namespace of the test."""

    def __init__(self, stack: Stack, namespace: str, folder: Path) -> None:
        self._stack = stack
        self._namespace = namespace
        self._folder = folder

    def kubectl(self, *words: str) -> str:
        return kubectl(self._stack, "-n", self._namespace, *words)

    def apply(self, name: str, **spec: Any) -> None:
        self.apply_document({"metadata": {"name": name}, "spec": spec})

    def apply_document(self, document: dict[str, Any]) -> None:
        path = self._folder / "prefetch.yaml"
        path.write_text(yaml.safe_dump({"apiVersion": names.API_VERSION, "kind": names.PREFETCH_KIND, **document}))
        self.kubectl("apply", "-f", str(path))

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "prefetch", name, "-o", "json"))
        return found

    def wait(self, name: str, phase: str, **nodes: int) -> dict[str, Any]:
        """Wait until it is in the phase, with these counts of nodes, by its present specification."""

        def is_there(found: dict[str, Any]) -> bool:
            status = found.get("status", {})
            observed = status.get("observedGeneration") == found["metadata"]["generation"]
            return observed and status["phase"] == phase and nodes.items() <= status.get("nodes", {}).items()

        return until(lambda: self.get(name), is_there, f"prefetch {name} is {phase} {nodes}", 120, poll_s=0.5)

    def workflow(self, name: str) -> str:
        meta = self.get(name)["metadata"]
        return names.prefetch_id(self._namespace, names.resource_prefetch(name, meta["uid"]))

    def delete_all(self) -> None:
        self.kubectl("delete", "prefetch", "--all", "--timeout=30s")


def result(stack: Stack, workflow: str) -> dict[str, Any]:
    """Wait for the end of a prefetch and return what it says, as `kube-cache prefetch status` has it."""
    true(lambda: workflow_status(stack, workflow) != "RUNNING", f"{workflow} has ended")
    environment = {
        "PATH": "/usr/bin:/bin",
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": stack.temporal_namespace,
    }
    name = workflow.removeprefix("prefetch/")
    command = [sys.executable, "-m", "cli.main", "prefetch", "status", name, "--json"]
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
