"""`python -m tools.rbac`: write the page of rights, and prove on a real API server that each right is needed."""

from __future__ import annotations

import subprocess
import sys

from tools.rbac import page
from tools.rbac.table import LINES


def main() -> int:
    page.PATH.write_text(page.render())
    tests = sorted({line.test for line in LINES})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.plugins.rights", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
