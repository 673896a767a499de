"""`kube-cache` as people type it, with kubeconfig and Temporal's address, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.servers import build
from tools.stack import Stack
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import until


class Shell:
    """Of a person with a kubeconfig and Temporal's address, and nothing else."""

    def __init__(self, stack: Stack) -> None:
        self.env = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(stack.kubeconfig),
            "TEMPORAL_ADDRESS": stack.temporal_address,
            "TEMPORAL_NAMESPACE": stack.temporal_namespace,
            "COLUMNS": "160",
        }

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words],
            env=self.env | env, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout or done.stderr

    def by_kubectl(self, *words: str) -> str:
        """The same, as kubectl's plugin on the PATH."""
        kubectl = build.ensure(["kubectl"])["kubectl"]
        path = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        command = [str(kubectl), "kube-cache", *words]
        return subprocess.run(
            command, env=self.env | {"PATH": path}, check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def json(self, *words: str, code: int = 0, **env: str) -> Any:
        return json.loads(self(*words, "--json", code=code, **env))

    def why(self, pod: str, check: Callable[[Any], Any], what: str) -> Any:
        """Ask why until the answer is as expected; the answer."""
        return until(lambda: self.json("why", pod), check, what)
