"""Files that others publish with their Go modules, fetched by Go's own client, which verifies them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tools.servers.errors import NetworkDown


def fetch(module: str, version: str) -> Path:
    """Return the folder of a module, read-only; Go keeps it. Raises NetworkDown."""
    command = ["go", "mod", "download", "-json", f"{module}@v{version}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    answer = json.loads(run.stdout) if run.stdout.startswith("{") else {}
    if "Dir" not in answer:
        why = answer.get("Error") or run.stderr.strip()
        raise NetworkDown(
            f"cannot download the module {module} {version}: check the network, or point GOPROXY at a mirror that is"
            f" reachable ({why})"
        )
    return Path(answer["Dir"])
