"""Demand of weeks is read whole or not at all, and each way in which it cannot be read has a name and a remedy."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.errors import (
    DemandUnknown,
    InvalidRequest,
    KubeCacheError,
    PrometheusAnswerPartial,
    PrometheusAnswerUnusable,
    PrometheusRefused,
    PrometheusUnavailable,
)
from kube_cache.forecast.condition import State, examine
from kube_cache.forecast.series import MAX_SLOTS, Series
from kube_cache.prometheus import http
from kube_cache.prometheus.demand import MAX_POINTS, DemandQuery, chunks, read_demand
from kube_cache.prometheus.http import Endpoint
from tests.prometheus.served import Fields, Served, matrix, serving

UTC = ZoneInfo("UTC")
QUERY = DemandQuery("sum by (dataset) (in_use)", 600, 1500, 300)
A, B = {"dataset": "s3://m/a"}, {"dataset": "s3://m/b"}
LONG_S = 60.0  # longer than any answer of a test takes


@pytest.fixture
def prometheus() -> Iterator[Served]:
    with serving() as served:
        yield served


def read(served: Served, query: DemandQuery = QUERY, timeout_s: float = LONG_S, **more: str) -> dict[str, Series]:
    return read_demand(Endpoint(served.url, timeout_s, **more), query, UTC)


def test_each_dataset_has_its_series_and_gaps_stay_gaps(prometheus: Served) -> None:
    prometheus.gives(200, matrix((A, [(600, "1"), (1200, "3")]), (B, [(900, "2.5"), (1500, "0")])))
    found = read(prometheus)
    assert str({name: (series.start, list(series.values)) for name, series in found.items()}) == str(
        {"s3://m/a": (600, [1.0, math.nan, 3.0, math.nan]), "s3://m/b": (900, [2.5, math.nan, 0.0])}
    )
    asked = prometheus.asked[0]
    assert prometheus.paths == ["/api/v1/query_range"]
    assert (asked["query"], asked["start"], asked["end"], asked["step"]) == (QUERY.expression, "600", "1500", "300")


def test_nan_is_missing_and_infinity_is_a_named_state(prometheus: Served) -> None:
    prometheus.gives(200, matrix((A, [(600, "NaN"), (900, "4"), (1200, "+Inf"), (1500, "1")])))
    series = read(prometheus)["s3://m/a"]
    assert list(series.values) == [4, math.inf, 1]
    assert examine(series, now=1800)[0] is State.ABSURD


def test_a_series_without_labels_is_asked_for_by_name(prometheus: Served) -> None:
    prometheus.gives(200, matrix(({}, [(600, "1")])))
    assert list(read(prometheus, replace(QUERY, by=""))) == [""]


def test_a_question_that_is_too_long_is_asked_in_parts_and_put_together(prometheus: Served) -> None:
    def answer(fields: Fields) -> tuple[int, dict[str, str], bytes]:
        step = int(fields["step"])
        moments = range(int(fields["start"]), int(fields["end"]) + 1, step)
        return 200, {}, json.dumps(matrix((A, [(at, str(at // step)) for at in moments]))).encode()

    prometheus.answer = answer
    query = DemandQuery("x", 0, 60 * (2 * MAX_POINTS + 5), 60)
    assert list(read(prometheus, query)["s3://m/a"].values) == list(range(2 * MAX_POINTS + 6))
    assert len(prometheus.asked) == 3


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 3600))
def test_parts_cover_each_slot_once_and_none_is_too_long(start: int, length: int, step: int) -> None:
    parts = list(chunks(DemandQuery("x", start, start + length, step)))
    slots = [slot for first, last in parts for slot in (first // step, last // step)]
    assert slots[0] == start // step
    assert slots[-1] == (start + length) // step
    assert all(first % step == last % step == 0 for first, last in parts)
    assert all((last - first) // step + 1 <= MAX_POINTS for first, last in parts)
    assert [slots[each] + 1 for each in range(1, len(slots) - 1, 2)] == slots[2::2]


def test_when_one_part_fails_there_is_no_answer(prometheus: Served) -> None:
    whole = json.dumps(matrix((A, [(0, "1")]))).encode()
    prometheus.answer = lambda fields: (200, {}, whole) if fields["start"] == "0" else (503, {}, b"shutting down")
    with pytest.raises(PrometheusUnavailable, match="503, shutting down"):
        read(prometheus, DemandQuery("x", 0, 60 * 2 * MAX_POINTS, 60))


@pytest.mark.parametrize(
    ("status", "document", "error", "told"),
    [
        pytest.param(200, matrix(), DemandUnknown, "check the names in it", id="no series"),
        pytest.param(200, matrix((A, [(600, "NaN")])), DemandUnknown, "no measurement", id="only NaN"),
        pytest.param(
            200,
            matrix((A, [(600, "1")]), warnings=["store gateway 2 is away"]),
            PrometheusAnswerPartial,
            "store gateway 2 is away",
            id="partial",
        ),
        pytest.param(
            400,
            {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end of input"},
            PrometheusRefused,
            "bad_data: parse error: unexpected end of input",
            id="wrong expression",
        ),
        pytest.param(
            422,
            {"status": "error", "errorType": "execution", "error": "query processing would load too many samples"},
            PrometheusRefused,
            "too many samples",
            id="too many samples",
        ),
        pytest.param(403, b"forbidden", PrometheusRefused, "check the token and its rights", id="no right"),
        pytest.param(
            503,
            {"status": "error", "errorType": "timeout", "error": "query timed out"},
            PrometheusUnavailable,
            "timeout: query timed out",
            id="timed out there",
        ),
        pytest.param(500, b"<html>oops</html>", PrometheusUnavailable, "500, <html>oops</html>", id="500"),
        pytest.param(404, b"404 page not found", PrometheusAnswerUnusable, "the path before /api/v1", id="no API"),
        pytest.param(200, b"<html>sign in</html>", PrometheusAnswerUnusable, "sign in", id="a page"),
        pytest.param(200, b"", PrometheusAnswerUnusable, "not one of the API", id="nothing"),
        pytest.param(200, [1], PrometheusAnswerUnusable, "not one of the API", id="a list"),
        pytest.param(200, {"status": "success"}, PrometheusAnswerUnusable, "KeyError('data')", id="no data"),
        pytest.param(
            200,
            {"status": "success", "data": {"resultType": "vector", "result": []}},
            PrometheusAnswerUnusable,
            "a vector and no range",
            id="a vector",
        ),
        pytest.param(
            200, matrix(({"pod": "x"}, [(600, "1")])), PrometheusAnswerUnusable, "sum by (dataset)", id="no label"
        ),
        pytest.param(
            200,
            matrix(({**A, "pod": "x"}, [(600, "1")]), ({**A, "pod": "y"}, [(600, "1")])),
            PrometheusAnswerUnusable,
            "two series are of dataset 's3://m/a'",
            id="not summed",
        ),
        pytest.param(
            200,
            {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": A, "histograms": []}]}},
            PrometheusAnswerUnusable,
            "is a histogram",
            id="a histogram",
        ),
        pytest.param(200, matrix((A, [(600, "many")])), PrometheusAnswerUnusable, "many", id="no number"),
    ],
)
def test_each_answer_that_cannot_be_used_has_a_name_and_a_reason(
    prometheus: Served, status: int, document: object, error: type[KubeCacheError], told: str
) -> None:
    prometheus.gives(status, document)
    with pytest.raises(KubeCacheError) as caught:
        read(prometheus)
    assert type(caught.value) is error
    assert told in caught.value.message
    assert prometheus.url in caught.value.message


def test_a_busy_server_says_when_to_come_again(prometheus: Served) -> None:
    prometheus.gives(429, b"", Retry_After="17")
    with pytest.raises(PrometheusUnavailable) as caught:
        read(prometheus)
    assert caught.value.retry_after_s == 17


def test_no_redirect_is_followed_with_the_token(prometheus: Served, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    prometheus.gives(302, b"", Location="http://127.0.0.1:1/login")
    with pytest.raises(PrometheusAnswerUnusable, match=re.escape("302, to http://127.0.0.1:1/login")) as caught:
        read(prometheus, token_file=str(tmp_path / "token"))
    assert prometheus.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in str(caught.value)


def test_nobody_listens() -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PrometheusUnavailable, match="refused"):
            read_demand(Endpoint(url, LONG_S), QUERY, UTC)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="in its headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{", id="in its answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n{", id="in an answer without a length"),
    ],
)
def test_a_server_that_trickles_is_left_when_the_time_is_over(prometheus: Served, piece: bytes) -> None:
    done = threading.Event()

    def trickle(to) -> None:
        try:
            to.write(piece)
            while not done.wait(0.05):
                to.write(b"x" if piece else b"")
        except OSError:
            pass

    prometheus.raw = trickle
    try:
        with pytest.raises(PrometheusUnavailable, match=r"no answer in time|timed out"):
            read(prometheus, timeout_s=0.5)
    finally:
        done.set()


def test_an_answer_that_breaks_off_is_none(prometheus: Served) -> None:
    prometheus.raw = lambda to: to.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{}")
    with pytest.raises(PrometheusUnavailable, match="IncompleteRead"):
        read(prometheus)


def test_an_answer_without_end_is_refused(prometheus: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MAX_ANSWER_BYTES", 1000)
    prometheus.gives(200, b"x" * 2000)
    with pytest.raises(PrometheusAnswerUnusable, match=r"more than 1000 B: sum the series"):
        read(prometheus)


@pytest.mark.parametrize(
    "url", ["", "prometheus:9090", "ftp://x", "http://", "http://x:99999", "http://u:p@x", "http://x/?a=b", "http://[x"]
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_demand(Endpoint(url), QUERY, UTC)
    assert "u:p" not in caught.value.message


def test_a_file_that_is_missing_is_told(prometheus: Served) -> None:
    with pytest.raises(PrometheusUnavailable, match="/nowhere/token"):
        read(prometheus, token_file="/nowhere/token")
    with pytest.raises(PrometheusUnavailable, match="/nowhere/ca"):
        read_demand(Endpoint("https://127.0.0.1:1", ca_file="/nowhere/ca"), QUERY, UTC)


@pytest.mark.parametrize(
    ("start", "end", "step"),
    [
        pytest.param(0, MAX_SLOTS * 60, 60, id="too many slots"),
        pytest.param(10, 9, 60, id="ends before it begins"),
        pytest.param(0, 9, 0, id="no step"),
    ],
)
def test_a_question_that_makes_no_sense_is_not_asked(prometheus: Served, start: int, end: int, step: int) -> None:
    with pytest.raises(InvalidRequest):
        read(prometheus, DemandQuery("x", start, end, step))
    assert prometheus.asked == []
