"""The parent of every process that a stack starts, and the guarantee that none outlives it.

A program of its own (standard library only, one thread), because a guarantee inside the process that uses the stack
dies with it. Its owner talks to it over a socket. When that closes, whether the owner finished, crashed or was killed
with SIGKILL, everything here is killed: each child leads a session of its own, and this process is a subreaper, so that
children's children come back to it and are killed too. Should this process itself be killed, the kernel kills its
children (PDEATHSIG, reliable here because the only thread that forks is the one that lives as long as the process).

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
"""Loaded before any fork: loading a library in a forked child is not safe."""

_LOOK_S = 0.5
"""Only for the rare case that the socket does not tell of the owner's end."""

_KILL_PATIENCE_S = 10
"""A killed process that is still there after this is stuck in the kernel; nothing more can be done about it."""


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
            # A fork of the owner may hold the socket open after its death: then we have another parent.
            while os.getppid() == owner:
                for key, _ in self._selector.select(_LOOK_S):
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

    def _spawn(self, number: int, wanted: dict[str, Any]) -> None:
        try:
            with Path(wanted["log"]).open("ab") as log:
                child = subprocess.Popen(
                    wanted["argv"],
                    env=wanted["env"],
                    cwd=wanted["cwd"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 -- this program has one thread
                )
        except (OSError, subprocess.SubprocessError) as error:
            self._say({"number": number, "error": f"{wanted['argv'][0]}: {error}"})
            return
        self._children[child.pid] = child
        self._pidfds[child.pid] = pidfd = os.pidfd_open(child.pid)
        self._selector.register(pidfd, selectors.EVENT_READ, child.pid)
        self._say({"number": number, "pid": child.pid})

    def _signal(self, number: int, wanted: dict[str, int]) -> None:
        # Only what is not reaped yet: its number cannot have been given to somebody else's process.
        if wanted["pid"] in self._children:
            _signal_group(wanted["pid"], wanted["signal"])
        self._say({"number": number, "pid": wanted["pid"]})

    def _reap(self, pid: int) -> None:
        code = self._children.pop(pid).wait()
        pidfd = self._pidfds.pop(pid)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._say({"exited": pid, "code": code})

    def _say(self, message: dict[str, Any]) -> None:
        # An owner that is gone reads nothing; the loop sees the end of file next and ends everything.
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _kill_everything(self) -> None:
        deadline = time.monotonic() + _KILL_PATIENCE_S
        while time.monotonic() < deadline:
            # Each round sees what the last one orphaned: grandchildren are ours once their parents are dead.
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
    # A terminal's Ctrl-C is for the owner, who then closes the socket. SIGTERM ends everything here, in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    Supervisor(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
