"""Starts, watches and ends the stack's processes through the supervisor, which outlives its owner by a moment.

`Processes` is the owner's end. A `Process` is one server with its log; an error about a server that ends before it is
ready shows the end of that log, because the reason is almost always there. Does not know what a process is for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MAX_TAIL_LINES = 15
_POLL_S = 0.02


class StackError(Exception):
    """The stack cannot start or do what was asked; the message names the process and shows the end of its log."""


@dataclass
class Process:
    name: str
    pid: int
    log: Path
    argv: list[str]
    env: dict[str, str] = field(repr=False)
    cwd: Path
    log_offset: int = 0
    """Where the output of this process begins in a log that its predecessors wrote to, too; bytes."""
    _owner: Processes | None = field(default=None, repr=False)
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    code: int | None = None

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def signal(self, number: int) -> None:
        assert self._owner is not None
        self._owner.send_signal(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        return self._ended.wait(timeout_s)

    def kill(self, timeout_s: float = 10) -> None:
        """Send SIGKILL, and return once the process has ended."""
        self.signal(signal.SIGKILL)
        if not self.wait(timeout_s):
            raise StackError(f"{self.name} (pid {self.pid}) did not die of SIGKILL within {timeout_s} s")

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and SIGKILL if the process has not ended after the grace."""
        self.signal(signal.SIGTERM)
        if not self.wait(grace_s):
            self.kill()

    def respawn(self) -> Process:
        """Start the same command once more, after this process has ended; the log is continued."""
        if self.running:
            raise StackError(f"{self.name} (pid {self.pid}) still runs")
        assert self._owner is not None
        return self._owner.spawn(self.name, self.argv, self.env, self.cwd)

    def mark_ended(self, code: int) -> None:
        self.code = code
        self._ended.set()

    def output(self) -> str:
        """Return what this process has written so far."""
        with self.log.open("rb") as log:
            log.seek(self.log_offset)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(f"    {line}" for line in self.output().splitlines()[-_MAX_TAIL_LINES:])

    def wait_until(self, ready: Callable[[], bool], expected: str, timeout_s: float) -> None:
        """Poll until ready. Raises StackError, with the end of the log, if the process ends first or takes too long.

        expected: what is awaited, for the message.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise StackError(f"{self.name} ended with {self.code} before {expected}; {self.log}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: no {expected} within {timeout_s:.0f} s; {self.log}:\n{self.tail()}")
            time.sleep(_POLL_S)


class Processes:
    """Spawns processes through one supervisor. Thread-safe, because parts of a stack start side by side."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        """Not `_lock`: a full socket must not keep the reader from emptying the other direction."""
        self._replies: dict[int, dict[str, object]] = {}
        self._replied = threading.Condition(self._lock)
        self._by_pid: dict[int, Process] = {}
        self._ended_early: dict[int, int] = {}
        self._closed = False
        ours, theirs = socket.socketpair()
        with theirs:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket = ours
        self._reader = threading.Thread(target=self._read, name="stack-supervisor", daemon=True)
        self._reader.start()

    def spawn(
        self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Process:
        log = self._logs / f"{name}.log"
        offset = log.stat().st_size if log.exists() else 0
        command = [str(word) for word in argv]
        environment = dict(os.environ if env is None else env)
        folder = cwd or Path.cwd()
        request = {"argv": command, "env": environment, "cwd": str(folder), "log": str(log)}
        with self._request("spawn", request) as reply:
            if "error" in reply:
                raise StackError(f"{name} cannot start: {reply['error']}")
            pid = int(str(reply["pid"]))
            process = Process(
                name=name, pid=pid, log=log, argv=command, env=environment, cwd=folder, log_offset=offset, _owner=self
            )
            self._by_pid[pid] = process
            if pid in self._ended_early:
                process.mark_ended(self._ended_early.pop(pid))
            return process

    def send_signal(self, pid: int, number: int) -> None:
        """Send a signal, and return once it is sent; does nothing to a process that has ended."""
        with self._request("signal", {"pid": pid, "signal": number}):
            pass

    @property
    def running(self) -> list[Process]:
        with self._lock:
            return [process for process in self._by_pid.values() if process.running]

    def close(self) -> None:
        """End every process and wait for that. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self.supervisor.wait(15)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()
            self.supervisor.wait()
        self._reader.join(5)
        self._socket.close()

    @contextlib.contextmanager
    def _request(self, verb: str, arguments: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Ask the supervisor. No message is handled while the block uses the reply, because the lock is held."""
        number = next(self._numbers)
        data = json.dumps({"number": number, verb: arguments}).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):  # a supervisor that is gone is noticed below
            self._socket.sendall(data)
        with self._lock:
            while number not in self._replies:
                if self._closed:
                    raise StackError(f"cannot {verb}: the stack's supervisor has ended")
                self._replied.wait()
            yield self._replies.pop(number)

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    self._handle(json.loads(line))
            except OSError:
                pass  # closed by `close`: the same as the end of the stream
        with self._lock:
            self._closed = True
            for process in self._by_pid.values():
                if process.running:
                    process.mark_ended(-signal.SIGKILL)
            self._replied.notify_all()

    def _handle(self, message: dict[str, object]) -> None:
        with self._lock:
            if "exited" in message:
                pid, code = int(str(message["exited"])), int(str(message["code"]))
                process = self._by_pid.pop(pid, None)
                if process is None:
                    self._ended_early[pid] = code
                else:
                    process.mark_ended(code)
            else:
                self._replies[int(str(message["number"]))] = message
                self._replied.notify_all()
