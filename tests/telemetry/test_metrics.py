"""What is declared: names after Prometheus' conventions, a sentence for each, labels that no input can widen."""

from __future__ import annotations

import inspect
import re

import pytest

from kube_cache import errors
from kube_cache.dataset.transfer import Verified
from kube_cache.engine.totals import Totals
from kube_cache.telemetry import bounds, metrics
from kube_cache.telemetry.declarations import OTHER, Capped, Counting, Declaration, Process, Registry
from kube_cache.telemetry.exposition import Exposition
from tests.telemetry.scrape import Changes, value

DECLARED = metrics.DECLARED.declarations
DEMAND = "kube_cache_demand_copies"
# Prometheus' base units, dollars, and the words for a number of things that are there now.
UNITS = ("_seconds", "_bytes", "_bytes_per_second", "_dollars")
COUNTS = (
    "_pods", "_prefetches", "_workflows", "_failures", "_findings", "_connections", "_snapshots", "_in_progress", "_leading", "_copies",
    "_datasets", "_arrivals", "_run_state",
)  # fmt: skip


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_names_obey_the_conventions(declared: Declaration) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", declared.name)
    assert declared.name.startswith("kube_cache_") or declared.name == "gpu_prewarm_success_total"
    assert declared.name.endswith("_total") == (declared.kind == "counter")
    if declared.kind == "histogram":
        assert declared.name.endswith(UNITS)
    if declared.kind == "gauge":
        assert declared.name.endswith((*UNITS, *COUNTS))
    assert declared.help[0].isupper() or declared.help[0].isdigit()
    assert declared.help.endswith(".")
    assert len(declared.help) > 35, "a sentence that a stranger understands"


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_no_label_is_without_a_bound(declared: Declaration) -> None:
    series = 1
    for name, bound in declared.labels.items():
        assert name not in ("pod", "namespace", "node", "uri", "key", "workflow")
        assert name != "dataset" or declared.name == DEMAND, "the forecast needs weeks of each dataset's own demand"
        size = bound.limit if isinstance(bound, Capped) else len(bound)
        series *= size + 1
    assert series <= (301 if declared.name == DEMAND else 100), "how many series one process may export of it"


def test_a_value_beyond_the_bound_is_other() -> None:
    changes = Changes()
    metrics.ERRORS.labels("a message with a Pod's name").inc()
    metrics.ERRORS.labels("AccessDenied").inc()
    assert changes.of("kube_cache_errors_total", reason=OTHER) == 1
    assert changes.of("kube_cache_errors_total", reason="AccessDenied") == 1


def test_a_label_of_unknown_values_keeps_the_first_few() -> None:
    registry = Registry()
    counters = registry.counters(Process.AGENT, Counting.ONCE, "x_total", "Things.", bucket=Capped(2))
    for name in ("a", "b", "c", "d", "a"):
        counters.labels(name).inc()
    found = {name: registry.collectors.get_sample_value("x_total", {"bucket": name}) for name in ("a", "b", "c", OTHER)}
    assert found == {"a": 2, "b": 1, "c": None, OTHER: 2}


def test_counters_of_fixed_labels_begin_at_zero_so_that_a_first_increase_is_seen() -> None:
    registry = Registry()
    registry.counters(Process.AGENT, Counting.ONCE, "x_total", "Things.", kind=("a", "b"))
    assert registry.collectors.get_sample_value("x_total", {"kind": "b"}) == 0


@pytest.mark.parametrize("process", [Process.OPERATOR, Process.AGENT])
def test_every_metric_is_exported_by_its_process_and_by_no_other(process: Process) -> None:
    text = Exposition(process).text().decode()
    exported = set(re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE))
    for declared in DECLARED:
        assert (declared.name in exported) == (declared.process in (process, Process.BOTH)), declared.name


def test_the_bounds_are_those_of_the_parts_that_speak() -> None:
    ours = {name for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, Exception)}
    assert ours < set(bounds.ERROR_REASONS)
    assert set(bounds.PROOFS) == set(Verified)
    assert set(bounds.RETRY_CAUSES) == set(Totals().retries)


def test_things_are_shown_by_kind_and_what_has_another_kind_is_other() -> None:
    metrics.show_counts(metrics.GATED_PODS, bounds.PHASES, {"Warming": 3, "": 2, "Invented": 1})
    assert value("kube_cache_gated_pods", phase="Warming") == 3
    assert value("kube_cache_gated_pods", phase=OTHER) == 3
    metrics.show_counts(metrics.GATED_PODS, bounds.PHASES, {})
    assert value("kube_cache_gated_pods", phase="Warming") == 0
    metrics.clear_as_follower()
    assert value("kube_cache_gated_pods", phase="Warming") is None


def test_a_figure_that_cannot_be_read_does_not_hide_the_others() -> None:
    exposition, read = Exposition(Process.AGENT), []

    def broken() -> None:
        raise OSError("EIO")

    exposition.before_scrape += [broken, lambda: read.append(1)]
    assert b"kube_cache_received_bytes_total" in exposition.text()
    assert read == [1]
