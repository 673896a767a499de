"""`python -m tools.image`: build the image without Docker, and print what each step took."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.image.build import OUTPUT, Step, build
from tools.image.chroot import CannotBuild


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.image", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (default: build/image)")
    parser.add_argument("--fresh", action="store_true", help="take Debian's packages of today, not the kept ones")
    parser.add_argument("--mirror", default="", help="Debian's archive (default: as apt is configured here)")
    arguments = parser.parse_args()
    print(f"{'step':<18}{'seconds':>9}{'unpacked':>12}{'packed':>12}")
    try:
        image = build(arguments.output, fresh=arguments.fresh, mirror=arguments.mirror, tell=_print)
    except CannotBuild as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'in all':<18}{sum(step.seconds for step in image.steps):>9.1f}")
    print(f"{image.archive}\n{image.reference}@{image.digest}\n`ctr -n k8s.io images import {image.archive}`")
    return 0


def _print(step: Step) -> None:
    sizes = "".join(f"{_megabytes(size):>12}" for size in (step.size, step.packed))
    print(f"{step.name:<18}{step.seconds:>9.1f}{sizes}{'  kept' if step.kept else ''}", flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else ""


if __name__ == "__main__":
    sys.exit(main())
