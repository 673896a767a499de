"""Requests that the API server has answered, by verb and resource, from its own metrics; watches are left out."""

from __future__ import annotations

import re
from collections import Counter

from tools.stack.api import KubeApi

_SERIES = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Kinds with fewer requests than this for each Pod are not told: leases, discovery.
_MIN_PER_POD = 0.2


def answered(api: KubeApi) -> Counter[str]:
    found: Counter[str] = Counter()
    for labels, count in _SERIES.findall(api.text("/metrics")):
        label = dict(_LABEL.findall(labels))
        if label["verb"] != "WATCH":
            subresource = f"/{label['subresource']}" if label["subresource"] else ""
            found[f"{label['verb']} {label['resource']}{subresource}"] += round(float(count))
    return found


def between(before: Counter[str], after: Counter[str], pods: int) -> dict[str, float]:
    """Requests for each Pod, the most frequent first."""
    grown = {kind: (count - before[kind]) / pods for kind, count in after.items()}
    return {kind: rate for kind, rate in sorted(grown.items(), key=lambda one: -one[1]) if rate >= _MIN_PER_POD}
