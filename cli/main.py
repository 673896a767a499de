"""`kube-cache`: run one subcommand and exit with its code.

The subcommands and their arguments are declared in `cli.app`. Each is a module beside this one, imported when it runs:
Temporal's client, for instance, takes longer to load than `kube-cache store ls` to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from cli.processes import PROCESSES
from kube_cache.errors import KubeCacheError

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells report it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process. argv: without the program's name; None = the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
    except KubeCacheError as error:
        print(f"kube-cache: {error.message}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `kube-cache … | head`: the reader has seen enough
        code = code or 1
    # No sys.exit: Temporal's Rust core may crash while the interpreter finalizes.
    os._exit(code)


def _run(arguments: list[str]) -> int:
    """Return the exit code."""
    if len(arguments) == 1 and (run := PROCESSES.get(arguments[0])):
        # A process has no arguments, so it does not wait for the parser and does not keep it in memory. Nor rich, which
        # structlog loads wherever it is installed, for tracebacks in colour: None makes that import fail.
        sys.modules["rich"] = None  # type: ignore[assignment]
        return run()
    from cli import app  # noqa: PLC0415 -- see above

    return app.run(arguments)


if __name__ == "__main__":
    main()
