"""Reads metrics: of this process, and how they have changed; of another process, as Prometheus does."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from kube_cache.telemetry import metrics
from tools.stack.product import Part

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def value(name: str, **labels: str) -> float | None:
    """Return a sample of this process; None if it exports none of that name and those labels."""
    return metrics.REGISTRY.get_sample_value(name, labels)


class Changes:
    """What has happened to the metrics of this process since the object was made."""

    def __init__(self) -> None:
        self._before = samples(metrics.REGISTRY.collect())

    def of(self, name: str, **labels: str) -> float:
        return (value(name, **labels) or 0) - self._before.get((name, frozenset(labels.items())), 0)

    def any_of(self, name: str) -> bool:
        """Whether any series of that name has changed."""
        now = samples(metrics.REGISTRY.collect())
        return any(key[0] == name and now[key] != self._before.get(key, 0) for key in now)


def scrape(part: Part) -> list[Metric]:
    """Ask an operator or agent of a stack, whose log tells the port. Raises ValueError for what is no such text."""
    with urllib.request.urlopen(f"{address(part)}/metrics", timeout=10) as answer:
        return list(text_string_to_metric_families(answer.read().decode()))


def address(part: Part) -> str:
    """Address of an operator's or agent's probes."""
    return f"http://127.0.0.1:{part.probe_port}"


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
