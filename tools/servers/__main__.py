"""`python -m tools.servers [NAME…]`: builds the missing servers and prints the path of each."""

from __future__ import annotations

import argparse
import sys

from tools.servers import build
from tools.servers.errors import ServerError
from tools.servers.pins import DEFAULT, PINS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.servers", description="Build the pinned servers that are missing."
    )
    parser.add_argument(
        "name", nargs="*", help=f"default: {' '.join(DEFAULT)}; also: {' '.join(n for n in PINS if n not in DEFAULT)}"
    )
    parser.add_argument("--quiet", action="store_true", help="print no paths")
    arguments = parser.parse_args()
    try:
        paths = build.ensure(arguments.name or DEFAULT)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished builds are kept", file=sys.stderr)
        return 130
    if not arguments.quiet:
        for name, path in paths.items():
            print(f"{name:24} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
