"""`kube-cache`: parse the arguments, read the settings, run one subcommand, exit with its code.

Each subcommand is a module beside this one. A module that needs Temporal's client is imported when its subcommand runs:
the client takes longer to load than `kube-cache store ls` to run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from cli import store
from kube_cache.errors import KubeCacheError
from kube_cache.settings import Settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process. argv: without the program's name; None = the process's own."""
    parser = argparse.ArgumentParser(prog="kube-cache", description="Just-in-time data pre-warmer for Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True)
    operator = commands.add_parser("operator", help="run the watcher, the workflows and the cluster activities")
    operator.set_defaults(run=_run_operator)
    agent = commands.add_parser(
        "agent", help="run one node's activities (needs KUBE_CACHE_AGENT__NODE and KUBE_CACHE_STORE__ROOT)"
    )
    agent.set_defaults(run=_run_agent)
    store.add_parser(commands).set_defaults(run=store.run)
    args = parser.parse_args(argv)
    try:
        code = int(args.run(args, _settings()))
    except KubeCacheError as error:
        print(f"kube-cache: {error.message}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # No sys.exit: Temporal's Rust core may crash while the interpreter finalizes.
    os._exit(code)


def _run_operator(_args: argparse.Namespace, settings: Settings) -> int:
    from cli import operator  # noqa: PLC0415 -- see the module's docstring

    return operator.run(settings)


def _run_agent(_args: argparse.Namespace, settings: Settings) -> int:
    from cli import agent  # noqa: PLC0415 -- see the module's docstring

    return agent.run(settings)


def _settings() -> Settings:
    """Read the environment; a bad variable ends the process with exit code 2 and a line that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "KUBE_CACHE_" + "__".join(str(part).upper() for part in problem["loc"])
            print(f"kube-cache: {name}: {problem['msg']} (given: {problem.get('input')!r})", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
