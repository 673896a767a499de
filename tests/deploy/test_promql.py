"""The reader of expressions finds everything that they ask for."""

from __future__ import annotations

import pytest

from tests.deploy.promql import asked


def test_metrics_are_told_from_functions_keywords_labels_and_durations() -> None:
    found = asked(
        'topk(20, sum by (le, node) (rate(a_total{kind="hit", node=~"$node"}[$__rate_interval]))) > 5 * 60'
        " or max(b) / on (node) group_left (zone) c{} offset 5m and clamp_min(time() - d:e:rate5m[10m:1m], 0) == bool 1"
    )
    assert found.metrics == {"a_total", "b", "c", "d:e:rate5m"}
    assert found.labels == {"le", "node", "zone"}
    assert found.matched == {("a_total", "kind", "=", "hit"), ("a_total", "node", "=~", "$node")}


def test_what_the_reader_does_not_know_is_no_silence() -> None:
    with pytest.raises(AssertionError):
        asked("sum(a) ; b")
