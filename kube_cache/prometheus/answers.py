"""Reads what Prometheus answers to a range query. Refuses what is no demand for each dataset rather than guess.

An answer with warnings is refused, too: Thanos and its kin say so when a store was away, and half of the demand looks
like a quiet day. NaN is passed on as it is: `Series` takes it for a slot that was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kube_cache.errors import (
    PrometheusAnswerPartial,
    PrometheusAnswerUnusable,
    PrometheusRefused,
    PrometheusUnavailable,
)
from kube_cache.prometheus.http import Answer
from kube_cache.units import cut

_MAX_WORDS = 300  # of a server's own text in our message; a Pod's condition has 32 KiB, and people one line
_TOO_BUSY = {408, 429}
Points = dict[str, list[tuple[float, float]]]


def points(answer: Answer, url: str, by: str) -> Points:
    """Return (seconds since the epoch, value) by the value of the label `by`; "" of one series without labels.

    Raises one of the four errors above; the message names the reason in the server's own words where it gave some.
    """
    document = _document(answer)
    _check_status(answer, document, url)
    if document is None or document.get("status") != "success":
        raise _unusable(url, f"its answer is not one of the API: {_words(answer.body)}")
    if warnings := document.get("warnings"):
        raise PrometheusAnswerPartial(
            f"Prometheus at {url} says that its answer may be incomplete: {cut(str(warnings), _MAX_WORDS)}", url=url
        )
    try:
        data = document["data"]
        if data["resultType"] != "matrix":
            raise _unusable(url, f"it gives a {data['resultType']} and no range of values")
        return _series(data["result"], url, by)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(url, f"its answer is not one of the API: {error!r}") from error


def _series(result: list[dict[str, Any]], url: str, by: str) -> Points:
    found: Points = {}
    for series in result:
        labels: Mapping[str, str] = series["metric"]
        if by and by not in labels:
            raise _unusable(url, f"a series lacks the label {by!r} ({dict(labels)}): write sum by ({by}) (…)")
        name = labels[by] if by else ""
        if name in found:
            raise _unusable(url, f"two series are of {by or 'one query'} {name!r}: write sum by ({by}) (…)")
        if "histograms" in series:
            raise _unusable(url, f"{name!r} is a histogram: the expression must count copies in use")
        found[name] = [(float(moment), float(value)) for moment, value in series["values"]]
    return found


def _check_status(answer: Answer, document: Mapping[str, Any] | None, url: str) -> None:
    """Raise what an HTTP status other than 200 means."""
    if answer.status == 200:
        return
    words = _words(answer.body)
    if document is not None and "error" in document:
        words = cut(f"{document.get('errorType', 'error')}: {document['error']}", _MAX_WORDS)
    said = f"{answer.status}, {words}" if words else str(answer.status)
    if answer.status >= 500 or answer.status in _TOO_BUSY:
        error = PrometheusUnavailable(f"Prometheus at {url} cannot answer now ({said})", url=url)
        error.retry_after_s = answer.retry_after_s
        raise error
    if answer.status in (400, 422):
        raise PrometheusRefused(f"Prometheus at {url} refuses the expression ({said}): try it in its own page", url=url)
    if answer.status in (401, 403):
        raise PrometheusRefused(f"Prometheus at {url} refuses us ({said}): check the token and its rights", url=url)
    if answer.location:
        said = f"{said}, to {answer.location}"
    raise _unusable(url, f"there is no API of Prometheus ({said}); check the address and the path before /api/v1")


def _document(answer: Answer) -> dict[str, Any] | None:
    try:
        document = json.loads(answer.body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _words(body: bytes) -> str:
    return cut(" ".join(body[: 4 * _MAX_WORDS].decode(errors="replace").split()), _MAX_WORDS)


def _unusable(url: str, reason: str) -> PrometheusAnswerUnusable:
    return PrometheusAnswerUnusable(f"Prometheus at {url} cannot be used: {reason}", url=url)
