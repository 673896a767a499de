"""The processes of a stack, as things that can be killed, paused and started again, and the kubelet that keeps them up.

A process that ends by itself is started again after a moment, as Kubernetes or systemd would do, and is told in the
report. Nothing here waits until a process is ready: a start may meet others that are away.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tools.stack import Stack
from tools.stack.processes import Process
from tools.stack.product import Part

_BACKOFF_S = 2.0


class Target:
    """A process by its name in the report. read, write: of the place where the stack keeps it."""

    def __init__(self, name: str, kind: str, read: Callable[[], Process], start: Callable[[], None]) -> None:
        self.name = name
        self.kind = kind
        self._read = read
        self._start = start
        self.is_down = False
        """Killed or paused on purpose, until `restore`."""

    @property
    def process(self) -> Process:
        return self._read()

    def kill(self) -> None:
        self.process.kill()

    def pause(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def restore(self) -> None:
        """Resume the process, and start it if it has ended."""
        self.is_down = False
        if self.process.running:
            self.process.signal(signal.SIGCONT)
        else:
            self._start()


class Parts:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        plane = stack.cluster.control_plane
        self.servers = [
            Target("apiserver", "apiserver", lambda: plane.apiserver, lambda: _respawn(plane, "apiserver")),
            Target("etcd", "etcd", lambda: plane.etcd, lambda: _respawn(plane, "etcd")),
            Target("temporal", "temporal", lambda: stack.temporal.process, lambda: _respawn(stack.temporal, "process")),
            Target("s3", "s3", lambda: stack.s3.process, lambda: _respawn(stack.s3, "process")),
        ]
        self._bystanders = [
            Target("scheduler", "scheduler", lambda: plane.scheduler, lambda: _respawn(plane, "scheduler")),
            Target(
                "controller-manager",
                "controller-manager",
                lambda: plane.controller_manager,
                lambda: _respawn(plane, "controller_manager"),
            ),
            Target("kwok", "kwok", lambda: stack.cluster.kwok, lambda: _respawn(stack.cluster, "kwok")),
        ]
        self.operators = [_target(operator, "operator") for operator in stack.operators]
        self._agents: dict[str, tuple[Part, Target]] = {}
        self.ended: Counter[str] = Counter()
        """Ends that nobody asked for, by kind of process."""
        self.last_words: list[str] = []
        self._seen_ended: dict[str, float] = {}

    def agents(self) -> dict[str, Target]:
        """Return the agents of the nodes that are there."""
        for node, part in self._stack.agents.items():
            if node not in self._agents or self._agents[node][0] is not part:
                self._agents[node] = (part, _target(part, "agent"))
        return {node: target for node, (_, target) in self._agents.items() if node in self._stack.agents}

    def all(self) -> Iterator[Target]:
        yield from (*self.servers, *self._bystanders, *self.operators, *self.agents().values())

    def keep_up(self) -> None:
        """Start what has ended by itself; to be called every moment."""
        now = time.monotonic()
        for target in self.all():
            if target.process.running or target.is_down:
                continue
            since = self._seen_ended.setdefault(target.name, now)
            if since == now:
                self.ended[target.kind] += 1
                words = target.process.tail().splitlines()[-1:] or [""]
                self.last_words.append(f"{target.name} ended with {target.process.code}: {words[0].strip()[:300]}")
            if now - since >= _BACKOFF_S:
                del self._seen_ended[target.name]
                target.restore()

    def restore_all(self) -> None:
        for target in self.all():
            target.restore()


def _target(part: Part, kind: str) -> Target:
    return Target(part.name, kind, lambda: part.process, lambda: part.start(wait=False))


def _respawn(owner: object, field: str) -> None:
    setattr(owner, field, getattr(owner, field).respawn())
