"""Reads the demand for datasets over weeks: range queries in chunks, put together into series.

A server refuses a query of more than 11,000 points, which are 38 days at five minutes and 7 days at one. Either all
chunks are read or none counts: a week that is missing would look like one without measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from kube_cache.errors import DemandUnknown, PrometheusAnswerUnusable
from kube_cache.forecast.series import Series, check_span
from kube_cache.prometheus import answers, http
from kube_cache.prometheus.http import Endpoint

MAX_POINTS = 11_000
_MAX_DATASETS = 1000
_PATH = "/api/v1/query_range"


@dataclass(frozen=True)
class DemandQuery:
    expression: str
    """PromQL that counts copies in use at once, one series for each dataset."""
    start: int
    end: int
    """Both in seconds since the epoch; the last slot is the one that `end` is in."""
    step_s: int
    by: str = "dataset"
    """Label that names the dataset; empty for an expression of one series."""


def read_demand(endpoint: Endpoint, query: DemandQuery, zone: ZoneInfo) -> dict[str, Series]:
    """Return the demand by dataset. A series begins with its first measurement and ends with the slot of `end`.

    Raises DemandUnknown where no series has a measurement, and the errors of `http` and `answers`.
    """
    check_span(query.start, query.end, query.step_s)
    found: answers.Points = {}
    for first, last in chunks(query):
        fields = {
            "query": query.expression,
            "start": str(first),
            "end": str(last),
            "step": str(query.step_s),
            # The server gives up before we do, and says why.
            "timeout": f"{max(1, int(endpoint.timeout_s * 900))}ms",
        }
        for name, points in answers.points(http.post(endpoint, _PATH, fields), endpoint.url, query.by).items():
            found.setdefault(name, []).extend(points)
        if len(found) > _MAX_DATASETS:
            raise PrometheusAnswerUnusable(
                f"Prometheus at {endpoint.url} gives more than {_MAX_DATASETS:,} datasets: choose some in the expression",
                url=endpoint.url,
            )
    series = {
        name: Series.from_points(points, step_s=query.step_s, zone=zone, end=query.end)
        for name, points in found.items()
    }
    if not any(map(len, series.values())):
        raise DemandUnknown(
            f"Prometheus at {endpoint.url} has no measurement for the expression {query.expression!r}: check the names in "
            "it, and that what it reads is scraped",
            url=endpoint.url,
        )
    return series


def chunks(query: DemandQuery) -> Iterator[tuple[int, int]]:
    """Cut a query into ranges of at most MAX_POINTS; first and last moment of each.

    All moments are multiples of the step, so that the same question an hour later sees the same numbers.
    """
    step = query.step_s
    first, end = query.start // step, query.end // step
    while first <= end:
        last = min(first + MAX_POINTS - 1, end)
        yield first * step, last * step
        first = last + 1
