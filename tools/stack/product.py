"""The product's own processes in a stack: the operator, and one agent for each fake node.

Configured by environment only, as in a cluster. A process is ready once its log says so; a process that ends before is
an error that shows the end of its log.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.stack.processes import Process, Processes, StackError

_PORT = re.compile(r'"port": (\d+)')
_READY_S = 60
_GRACE_S = 30
"""Longer than the product's own drain (20 s), so that the stack never cuts a stop short."""


class Part:
    """An operator or an agent that can be killed and started again; all its processes write to one log."""

    def __init__(self, processes: Processes, name: str, command: str, env: Mapping[str, str], cwd: Path) -> None:
        self.name = name
        self._processes = processes
        self._command = command
        self._env = dict(env)
        self._original_env = dict(env)
        self._cwd = cwd
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        if self._process is None:
            raise StackError(f"{self.name} was never started")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.process.log

    @property
    def probe_port(self) -> int:
        """Port of /healthz, /readyz and /metrics, as the log tells it. Raises StackError for a process without one."""
        for line in reversed(self.process.output().splitlines()):
            if "serving health and metrics" in line and (port := _PORT.search(line)):
                return int(port[1])
        raise StackError(f"{self.name} serves no metrics")

    @property
    def environment(self) -> dict[str, str]:
        return dict(self._env)

    def start(self, *, wait: bool = True) -> None:
        if self.running:
            raise StackError(f"{self.name} already runs (pid {self.pid})")
        self._process = self._processes.spawn(
            self.name, [sys.executable, "-m", "cli.main", self._command], self._env, cwd=self._cwd
        )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        event = f"{self._command} ready"
        self.process.wait_until(lambda: _has_event(self.process.output(), event), f"log line {event!r}", timeout_s)

    def kill(self) -> None:
        """Send SIGKILL, so that the process ends without a goodbye."""
        self.process.kill()

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Send SIGTERM, as the kubelet does."""
        self.process.stop(grace_s)

    def pause(self) -> None:
        """Send SIGSTOP: the process is alive for the kernel and silent for everybody else."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def repair(self) -> None:
        """Have it run with its original environment, whatever a test did to it."""
        changed = self._env != self._original_env
        self._env = dict(self._original_env)
        if not self.running:
            self.start()
        elif changed:
            self.restart()
        else:
            self.resume()

    def restart(self, *, kill: bool = True, env: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """End the process if it runs, and start it again. env: variables to add to its environment."""
        if self.running:
            if kill:
                self.kill()
            else:
                self.stop()
        self._env.update(env or {})
        self.start(wait=wait)


def _has_event(output: str, event: str) -> bool:
    for line in output.splitlines():
        if line.startswith("{") and event in line:
            try:
                if json.loads(line).get("event") == event:
                    return True
            except ValueError:
                continue
    return False
