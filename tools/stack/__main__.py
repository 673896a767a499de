"""`python -m tools.stack`: a stack for people, which runs until Ctrl-C; `make stack` calls it.

The folder (default `.stack`) is emptied at the start and kept at the end, for its logs. `.stack/env` exists exactly
while everything is up, so that a script can wait for it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tools.servers.errors import ServerError
from tools.stack import Stack, StackError, env_file

_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1


class _Stop(Exception):
    """Ctrl-C, SIGTERM or SIGHUP."""


def main() -> int:
    arguments = _arguments()
    # SIGINT too: a shell starts its background jobs with SIGINT ignored, and a script that sends it expects an end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    env = env_file.under(arguments.dir)
    started = time.monotonic()
    try:
        if arguments.end_with_parent:
            _end_with_parent()
        with Stack(
            node_count=arguments.nodes,
            gpus=arguments.gpus,
            with_product=not arguments.bare,
            state=arguments.dir,
            # A person uploads as the owner and grants nothing: the product must be able to read what they upload.
            as_reader=False,
            report=_print,
        ) as stack:
            env_file.write(env, stack.user_environment())
            try:
                _print(_banner(stack, env))
                _watch(stack)
            except _Stop:
                _print("stack: stopping")
            finally:
                env_file.remove(env)
        _print(f"stack: stopped after {time.monotonic() - started:.0f} s; logs stay in {stack.logs}")
        return 0
    except _Stop:
        return 130
    except (StackError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _watch(stack: Stack) -> None:
    """Report a process that ends: a stack with a missing part costs an hour of search otherwise."""
    expected = {process.name: process for process in stack.processes.running}
    idle = threading.Event()
    while True:
        for name, process in list(expected.items()):
            if not process.running:
                del expected[name]
                _print(f"stack: {name} ended with {process.code}; {process.log}:\n{process.tail()}")
        idle.wait(_POLL_S)


def _banner(stack: Stack, env: Path) -> str:
    parts = "operator and agents" if stack.agents else "no operator or agents"
    return (
        f"stack: {len(stack.nodes)} nodes of {stack.gpus} GPUs, {parts}\n"
        f"  Temporal UI  {stack.temporal.ui}/namespaces/{stack.temporal_namespace}/workflows\n"
        f"  logs         {stack.logs}\n"
        f"  use it       set -a; . {env}; set +a\n"
        f"  stop it      Ctrl-C"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.stack", description="Real servers, operator and agents on this machine."
    )
    parser.add_argument("--nodes", type=int, default=3, help="fake GPU nodes, one agent each (default 3)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs a node (default 8)")
    parser.add_argument("--bare", action="store_true", help="servers and nodes only, no operator and no agents")
    parser.add_argument("--dir", type=Path, default=Path(".stack"), help="folder for state and logs (default .stack)")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="stop when the calling process dies, even of SIGKILL"
    )
    return parser.parse_args()


def _end_with_parent() -> None:
    """Stop with the parent, for `make stack`: a make that is killed cannot pass a signal on."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise _Stop  # the parent died before the call


def _stop(*_: object) -> None:
    raise _Stop


def _print(line: str) -> None:
    print(line, flush=True)


def _exit(run: Callable[[], int]) -> None:
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core, loaded to probe the server, crashes at interpreter exit now and then.
    os._exit(code)


if __name__ == "__main__":
    _exit(main)
