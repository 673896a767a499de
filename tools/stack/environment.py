"""The environment that the stack gives its processes: small, and free of the developer's own settings.

A stray AWS_PROFILE, KUBECONFIG or TEMPORAL_API_KEY of the developer, or a configuration file in their home, must
neither break a test nor point it at a real system.
"""

from __future__ import annotations

import os
from pathlib import Path

_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


def clean(home: Path, **extra: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Loopback never goes through a proxy, whatever the system's settings say.
    return {
        **inherited,
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **extra,
    }
