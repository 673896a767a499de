"""What the Pods of a namespace may name: read once in a while, and not known is not allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from kube_cache.errors import DatasetNotAllowed
from kube_cache.kube import allowed_datasets
from kube_cache.kube.allowed_datasets import AllowedDatasets, entries, is_covered
from kube_cache.kube.client import ApiError


class Kube:
    def __init__(self, rules: dict[str, str]) -> None:
        self.rules = rules
        self.reads = 0
        self.status = 200

    def request(self, _method: str, _path: str, **_: Any) -> dict[str, Any]:
        self.reads += 1
        if self.status != 200:
            raise ApiError(self.status, "Error", "scripted")
        return {"data": self.rules}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("rule", "uri", "allowed"),
    [
        ("*", "s3://a/b", True),
        ("", "s3://a/b", False),
        ("s3://a", "s3://a/b", True),
        ("s3://a/b", "s3://a/bc", False),
        ("s3://a/b/, gs://c", "s3://a/b", True),
        ("s3://a/b\ngs://c", "gs://c/x/y/", True),
        ("s3://a", "gs://a/b", False),
    ],
)
def test_an_entry_covers_what_it_names_and_all_below(rule: str, uri: str, allowed: bool) -> None:
    assert is_covered(uri, entries({"allowedDatasets": rule}, "ml")) is allowed


def test_the_rule_of_a_namespace_counts_instead_of_that_of_all() -> None:
    rules = {"allowedDatasets": "*", "allowedDatasets.ml": "s3://models"}
    with pytest.raises(DatasetNotAllowed, match="allowed are s3://models/"):
        AllowedDatasets(Kube(rules)).check("ml", ["s3://models/gpt", "s3://payroll/x"])  # type: ignore[arg-type]
    AllowedDatasets(Kube(rules)).check("other", ["s3://payroll/x"])  # type: ignore[arg-type]


def test_many_pods_cost_one_request_and_a_changed_rule_is_noticed() -> None:
    kube, clock = Kube({}), Clock()
    allowed = AllowedDatasets(kube, clock)  # type: ignore[arg-type]
    for _ in range(100):
        allowed.check("ml", ["s3://a/b"])
    assert kube.reads == 1
    kube.rules = {"allowedDatasets": ""}
    clock.now = 11
    with pytest.raises(DatasetNotAllowed, match="allowed are none"):
        allowed.check("ml", ["s3://a/b"])


def test_without_parameters_everything_is_allowed_and_with_unreadable_ones_nothing_is_yet() -> None:
    kube = Kube({})
    kube.status = 404
    AllowedDatasets(kube).check("ml", ["s3://a/b"])  # type: ignore[arg-type]
    kube.status = 403
    with pytest.raises(ApiError) as caught:
        AllowedDatasets(kube).check("ml", ["s3://a/b"])  # type: ignore[arg-type]
    assert caught.value.retryable


class SlowKube(Kube):
    """Answers a request when the test says so."""

    def __init__(self, rules: dict[str, str]) -> None:
        super().__init__(rules)
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()

    def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        self.asked.release()
        assert self.may_answer.wait(60)
        return super().request(method, path, **more)


@pytest.fixture
def slow() -> Iterator[SlowKube]:
    kube = SlowKube({"allowedDatasets": "s3://a"})
    yield kube
    kube.may_answer.set()


@pytest.fixture
def threads(slow: SlowKube) -> Iterator[Callable[[AllowedDatasets], Future[None]]]:
    """Ask in a thread."""
    with ThreadPoolExecutor(8) as pool:
        yield lambda allowed: pool.submit(allowed.check, "ml", ["s3://a/b"])
        slow.may_answer.set()


def test_threads_that_ask_while_the_first_answer_is_slow_share_one_request(
    slow: SlowKube, threads: Callable[[AllowedDatasets], Future[None]]
) -> None:
    allowed = AllowedDatasets(slow, Clock())  # type: ignore[arg-type]
    asking = [threads(allowed) for _ in range(8)]
    assert slow.asked.acquire(timeout=60)
    slow.may_answer.set()
    for each in asking:
        each.result(60)
    assert slow.reads == 1


def test_an_answer_that_is_slow_to_be_renewed_holds_nobody_up(
    slow: SlowKube, threads: Callable[[AllowedDatasets], Future[None]]
) -> None:
    clock = Clock()
    allowed = AllowedDatasets(slow, clock)  # type: ignore[arg-type]
    slow.may_answer.set()
    allowed.check("ml", ["s3://a/b"])
    assert slow.asked.acquire(timeout=60)
    slow.may_answer.clear()
    clock.now = 11
    renewing = threads(allowed)
    assert slow.asked.acquire(timeout=60)
    allowed.check("ml", ["s3://a/b"])  # by the last rules, while the new ones are on their way
    assert not renewing.done()
    clock.now = 61
    waiting = threads(allowed)
    slow.rules = {"allowedDatasets": ""}
    slow.may_answer.set()
    for each in (renewing, waiting):
        with pytest.raises(DatasetNotAllowed):
            each.result(60)


def test_a_thread_waits_no_longer_than_a_few_seconds_for_the_request_of_another(
    slow: SlowKube, threads: Callable[[AllowedDatasets], Future[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowed_datasets, "_MAX_WAIT_S", 0.01)
    allowed = AllowedDatasets(slow, Clock())  # type: ignore[arg-type]
    reading = threads(allowed)
    assert slow.asked.acquire(timeout=60)
    with pytest.raises(ApiError, match="did not answer") as caught:
        allowed.check("ml", ["s3://a/b"])
    assert caught.value.retryable
    assert not reading.done()


def test_a_failure_is_told_to_all_who_wait_for_it_and_the_next_asks_again(
    slow: SlowKube, threads: Callable[[AllowedDatasets], Future[None]]
) -> None:
    allowed = AllowedDatasets(slow, Clock())  # type: ignore[arg-type]
    slow.status = 500
    asking = [threads(allowed) for _ in range(4)]
    assert slow.asked.acquire(timeout=60)
    slow.may_answer.set()
    for each in asking:
        with pytest.raises(ApiError, match="scripted"):
            each.result(60)
    slow.status = 200
    allowed.check("ml", ["s3://a/b"])
