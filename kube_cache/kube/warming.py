"""The annotation of a Pod that waits for a download: where from, and of how many bytes.

It stands beside the condition and is written and removed with it, so it tells two things to whoever writes the Pod's
progress: what to read, and that nobody has said anything else meanwhile (docs/design/progress.md).
"""

from __future__ import annotations

import json
from dataclasses import asdict

from kube_cache.contracts.common import Warming


def warming_mark(warming: Warming) -> str:
    """Compose the annotation's value; `read_warming` reads it back."""
    return json.dumps(asdict(warming), separators=(",", ":"))


def read_warming(mark: str) -> Warming | None:
    """Parse the annotation's value; None for one that we did not write: anybody may annotate a Pod."""
    try:
        value = json.loads(mark)
        warming = Warming(
            value["node"],
            value["cache_id"],
            list(value["digests"]),
            int(value["total_bytes"]),
            int(value["present_bytes"]),
        )
    except (ValueError, TypeError, KeyError):
        return None
    texts = [warming.node, warming.cache_id, *warming.digests]
    return warming if all(isinstance(text, str) for text in texts) else None
