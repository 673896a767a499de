"""The parent of every process that a stack starts, and the guarantee that none of them outlives the stack.

A program of its own (standard library only, one thread), because a guarantee inside the stack's owner would die with
the owner. The owner talks to the supervisor over a socket. When the socket closes, because the owner finished, crashed
or was killed with SIGKILL, the supervisor kills every process: each child leads a session of its own, and the
supervisor is a subreaper, so that orphaned grandchildren become its children and are killed too. If the supervisor
itself is killed, the kernel kills its children (PDEATHSIG, reliable here because the only thread that forks lives as
long as the process).

Protocol, one JSON object a line. In: {"number": n, "spawn": {argv, env, cwd, log}} and
{"number": n, "signal": {pid, signal}}. Out: {"number": n, "pid": p} or {"number": n, "error": text}, and
{"exited": pid, "code": c} (negative: killed by a signal).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
"""Loaded before any fork, because loading a library in a forked child is not safe."""

_POLL_S = 0.5
"""How often the parent is checked; only for the rare case that the socket does not tell of the owner's end."""

_KILL_TIMEOUT_S = 10
"""A killed process that still exists after this is stuck in the kernel; nothing more can be done."""


class Supervisor:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pending = b""
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        self._selector.register(self._control, selectors.EVENT_READ)
        owner = os.getppid()
        try:
            # A fork of the owner may hold the socket open after the owner's death: then the parent is another process.
            while os.getppid() == owner:
                for key, _ in self._selector.select(_POLL_S):
                    if key.fileobj is self._control:
                        if not self._read_commands():
                            return
                    else:
                        self._reap(int(key.data))
        finally:
            self._kill_everything()

    def _read_commands(self) -> bool:
        try:
            data = self._control.recv(1 << 20)
        except ConnectionError:
            return False
        if not data:
            return False
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if "spawn" in command:
                self._spawn(command["number"], command["spawn"])
            else:
                self._signal(command["number"], command["signal"])
        return True

    def _spawn(self, number: int, request: dict[str, Any]) -> None:
        try:
            with Path(request["log"]).open("ab") as log:
                child = subprocess.Popen(
                    request["argv"],
                    env=request["env"],
                    cwd=request["cwd"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 -- this program has one thread
                )
        except (OSError, subprocess.SubprocessError) as error:
            self._reply({"number": number, "error": f"{request['argv'][0]}: {error}"})
            return
        self._children[child.pid] = child
        self._pidfds[child.pid] = pidfd = os.pidfd_open(child.pid)
        self._selector.register(pidfd, selectors.EVENT_READ, child.pid)
        self._reply({"number": number, "pid": child.pid})

    def _signal(self, number: int, request: dict[str, int]) -> None:
        # Only a child that is not reaped yet: the kernel cannot have given its pid to another process.
        if request["pid"] in self._children:
            _signal_group(request["pid"], request["signal"])
        self._reply({"number": number, "pid": request["pid"]})

    def _reap(self, pid: int) -> None:
        code = self._children.pop(pid).wait()
        pidfd = self._pidfds.pop(pid)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._reply({"exited": pid, "code": code})

    def _reply(self, message: dict[str, Any]) -> None:
        # An owner that is gone reads nothing; the loop meets the end of file next and kills everything.
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _kill_everything(self) -> None:
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while time.monotonic() < deadline:
            # Each round finds the processes that the last one orphaned: they are children of this process now.
            children = _own_children()
            if not children:
                return
            for pid in children:
                _signal_group(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)


def _own_children() -> list[int]:
    pid = os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal_group(pid: int, number: int) -> None:
    for send in (os.killpg, os.kill):
        try:
            send(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != _SELF:
        os._exit(1)  # the parent died between fork and prctl


_SELF = os.getpid()


def main() -> None:
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A terminal's Ctrl-C is for the owner, which then closes the socket. SIGTERM ends every process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    Supervisor(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
