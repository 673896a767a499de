"""One round of the forecast, in a process of its own (`make_forecast` starts it).

A round parses up to 64 MiB of JSON and replays weeks of demand in Python: seconds to a minute of CPU, during which a
thread of the operator would take the interpreter's lock from the event loop that releases Pods, 5 ms at each switch. A
process shares neither lock nor memory, has the lowest priority for the CPU, gives its memory back at its end, and can
be killed. Reads a `Question` from standard input and writes an `Answer` to standard output, pickled: both ends are
parts of one process of one build.
"""

from __future__ import annotations

import os
import pickle
import resource
import sys
from dataclasses import dataclass, field

from kube_cache.contracts.forecast import ForecastReport, RunState, Sized
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.errors import (
    DemandUnknown,
    KubeCacheError,
    PrometheusAnswerPartial,
    PrometheusAnswerUnusable,
    PrometheusRefused,
    PrometheusUnavailable,
)
from kube_cache.forecast.carried_out import actions
from kube_cache.forecast.rounds import next_report, wants_size
from kube_cache.forecast.series import DAY_S
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.forecast.wall_time import zone
from kube_cache.prometheus.demand import DemandQuery, read_demand
from kube_cache.prometheus.http import Endpoint
from kube_cache.prometheus.number import read_number

_NICE = 19
_MAX_UNSIZED = 20
_STATES: dict[type[KubeCacheError], RunState] = {
    PrometheusUnavailable: RunState.PROMETHEUS_DOWN,
    PrometheusAnswerPartial: RunState.PARTIAL_ANSWER,
    PrometheusRefused: RunState.WRONG_EXPRESSION,
    PrometheusAnswerUnusable: RunState.WRONG_ANSWER,
    DemandUnknown: RunState.NO_DATA,
}


@dataclass(frozen=True)
class Question:
    before: ForecastReport
    sizes: list[Sized]
    settings: ForecastSettings
    now: int
    """Seconds since the epoch."""
    bytes_per_s: float
    """Of a download, where Prometheus cannot tell."""


@dataclass(frozen=True)
class Answer:
    state: str
    """A RunState."""
    message: str = ""
    report: ForecastReport | None = None
    """None unless the state is ok."""
    start: list[PrefetchSpec] = field(default_factory=list)
    end: list[str] = field(default_factory=list)
    unsized: list[str] = field(default_factory=list)


def answer(question: Question) -> Answer:
    """Do one round. What Prometheus does wrong is an answer and no error: the next run asks again."""
    settings, now = question.settings, question.now
    endpoint = Endpoint(
        settings.prometheus_url,
        settings.prometheus_timeout_s,
        settings.prometheus_token_file,
        settings.prometheus_ca_file,
    )
    # A day more than the weeks: an hour that the clocks moved, and the slots before the first one that is replayed.
    query = DemandQuery(
        settings.expression, now - (7 * settings.weeks + 1) * DAY_S, now, settings.step_s, settings.dataset_label
    )
    try:
        demand = read_demand(endpoint, query, zone(settings.time_zone))
        speed = _speed(endpoint, question)
        report = next_report(demand, question.before, settings, now, bytes_per_s=speed, sizes=question.sizes)
    except KubeCacheError as error:
        return Answer(_STATES.get(type(error), RunState.WRONG_SETTINGS), error.message)
    report, start, end = actions(question.before, report, settings)
    unsized = [each.dataset for each in report.datasets if wants_size(each, now)]
    return Answer(RunState.OK, "", report, start, end, unsized[:_MAX_UNSIZED])


def _speed(endpoint: Endpoint, question: Question) -> float:
    """Return the measured speed of a download; what is assumed where it was not measured."""
    try:
        found = read_number(endpoint, question.settings.speed_expression, question.now)
    except KubeCacheError:
        return question.bytes_per_s
    return found if found is not None and found > 0 else question.bytes_per_s


def main() -> None:
    os.nice(_NICE)
    question: Question = pickle.load(sys.stdin.buffer)  # noqa: S301 -- of our own parent
    # A container whose memory is used up is killed whole, the operator with it.
    most = question.settings.max_memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pickle.dump(answer(question), sys.stdout.buffer)
