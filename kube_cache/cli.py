"""The command line: `kube-cache operator`, `kube-cache agent`, `kube-cache store ...`.

It starts the parts by name, so that this leaf package imports none of the packages above it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from kube_cache import storecli
from kube_cache.errors import KubeCacheError
from kube_cache.settings import Settings
from kube_cache.telemetry import configure_logging

_PARTS = {"operator": "watcher.operator", "agent": "activities.agent"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="kube-cache", description="Just-in-time data pre-warmer for Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("operator", help="run the watcher, the workflows and the cluster activities")
    commands.add_parser(
        "agent", help="run one node's activities (needs KUBE_CACHE_AGENT__NODE and KUBE_CACHE_STORE__ROOT)"
    )
    storecli.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "KUBE_CACHE_" + "__".join(str(part).upper() for part in problem["loc"])
            print(f"kube-cache: {name}: {problem['msg']} (given: {problem.get('input')!r})", file=sys.stderr)
        sys.exit(2)
    try:
        if args.command == "store":
            code = storecli.run(args, settings)
        else:
            configure_logging(settings.telemetry)
            code = int(importlib.import_module(_PARTS[args.command]).run(settings))
    except KubeCacheError as error:
        print(f"kube-cache: {error.message}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: Temporal's Rust core may crash while the interpreter finalizes.
    os._exit(code)


if __name__ == "__main__":
    main()
