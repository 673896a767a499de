"""Reads one number of now: what an expression without labels gives."""

from __future__ import annotations

import math

from kube_cache.prometheus import answers, http
from kube_cache.prometheus.http import Endpoint

_PATH = "/api/v1/query_range"


def read_number(endpoint: Endpoint, expression: str, moment: int) -> float | None:
    """Return the value at a moment, in seconds since the epoch; None where there is none, or it is no number.

    Raises the errors of `http` and `answers`.
    """
    fields = {"query": expression, "start": str(moment), "end": str(moment), "step": "60"}
    points = answers.points(http.post(endpoint, _PATH, fields), endpoint.url, "").get("", [])
    values = [value for _, value in points if math.isfinite(value)]
    return values[-1] if values else None
