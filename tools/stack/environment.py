"""The environment that the stack gives its processes: small, and free of whatever the developer's shell holds.

A stray AWS_PROFILE, KUBECONFIG or TEMPORAL_API_KEY of the developer must neither break a test nor point it at a real
system; neither must a configuration file in their home.
"""

from __future__ import annotations

import os
from pathlib import Path

_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


def clean(home: Path, **extra: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Loopback never goes through a proxy, whatever the system's settings say.
    return {**kept, "HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", **extra}
