"""The product's own processes as the stack runs them: the operator, and one agent per fake node.

Configured by environment only, as in a cluster. Ready is what the process says in its log; a process that ends before
that is an error with the end of its log.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.stack.processes import Process, Processes, StackError

_READY_S = 60
_GRACE_S = 30
"""Longer than the product's own drain (20 s), so that a stop is never cut short by us."""


class Part:
    """One operator or agent that can be killed and started again; its log is one file over all its lives."""

    def __init__(self, processes: Processes, name: str, command: str, env: Mapping[str, str], cwd: Path) -> None:
        self.name = name
        self._processes = processes
        self._command = command
        self._env = dict(env)
        self._original = dict(env)
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
        self.process.wait_until(lambda: _says(self.process.output(), event), f"log line {event!r}", timeout_s)

    def kill(self) -> None:
        """SIGKILL, no goodbye."""
        self.process.kill()

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """SIGTERM, as the kubelet does it."""
        self.process.stop(grace_s)

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, silent for everybody else."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def mend(self) -> None:
        """Running, with the environment that it was made with, whatever was done to it."""
        changed = self._env != self._original
        self._env = dict(self._original)
        if not self.running:
            self.start()
        elif changed:
            self.restart()
        else:
            self.resume()

    def restart(self, *, kill: bool = True, env: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """End it if it runs and start it again, with more environment if given."""
        if self.running:
            if kill:
                self.kill()
            else:
                self.stop()
        self._env.update(env or {})
        self.start(wait=wait)


def _says(output: str, event: str) -> bool:
    for line in output.splitlines():
        if line.startswith("{") and event in line:
            try:
                if json.loads(line).get("event") == event:
                    return True
            except ValueError:
                continue
    return False
