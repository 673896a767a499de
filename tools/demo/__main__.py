"""`python -m tools.demo`, for `make demo`. Sizes come from the environment: `make demo DEMO_MIB=64`."""

from __future__ import annotations

import os
import signal
import sys

from rich.console import Console

from tools.demo import plan, play
from tools.servers.errors import ServerError
from tools.stack import StackError

_LOG_WIDTH = 160


class _Stop(Exception):
    """SIGTERM or SIGHUP."""


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH, highlight=False)
    try:
        return play.run(plan.create(os.environ), console, keep=os.environ.get("KEEP", "") not in ("", "0"))
    except (_Stop, KeyboardInterrupt):
        return 130
    except (StackError, ServerError, plan.PlanError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _stop(*_: object) -> None:
    raise _Stop


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core crashes at interpreter exit now and then; a finished demo must not end with an error.
    os._exit(code)
