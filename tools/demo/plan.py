"""What the demo plays: its size, its two datasets and its Pods. Pure data; nothing here starts anything.

Every Pod says beforehand what must become of it, so that the end is compared with the plan and not with what happened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kube_cache import names
from tools.stack import pods

MIB = 1 << 20
BUCKET = "models"
GPUS = 8

_README = Path(__file__).parents[2] / "README.md"
_WEIGHTS = (31, 22, 16, 11, 8, 6, 4, 2)
"""Shares of the large dataset's eight objects, in percent: uneven, as real checkpoints are."""
_SMALL_SHARE = 8
_WARM_S = 10
"""How long the large dataset shall take on an otherwise idle node: long enough to watch, short enough to wait for."""


class PlanError(Exception):
    """A size that cannot be; the message names the variable."""


@dataclass(frozen=True)
class Dataset:
    prefix: str
    sizes: Mapping[str, int]
    """Object name under the prefix → bytes."""

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Role:
    """One Pod. dataset: what it must find on its node; None if `error` (a class of kube_cache.errors) must hold it."""

    document: dict[str, Any] = field(repr=False)
    about: str
    dataset: Dataset | None = None
    error: str = ""
    late: bool = False
    """Created when the others are done, so that it finds its data on a disk."""

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def written(self) -> str:
        return str(self.document["metadata"]["annotations"][names.DATASET_ANNOTATION])


@dataclass(frozen=True)
class Plan:
    nodes: int
    large: Dataset
    small: Dataset
    roles: list[Role]
    max_bytes_per_s: int
    """Cap of each agent; 0 = none."""


def make(environment: Mapping[str, str]) -> Plan:
    """From DEMO_MIB, DEMO_NODES, DEMO_PODS and DEMO_MIB_PER_S. Raises PlanError."""
    mib = _number(environment, "DEMO_MIB", default=1024, least=1)
    nodes = _number(environment, "DEMO_NODES", default=3, least=1)
    more = _number(environment, "DEMO_PODS", default=6, least=0)
    rate = _number(environment, "DEMO_MIB_PER_S", default=max(1, mib // _WARM_S), least=0)
    large = Dataset("gpt-4-weights", uneven(mib * MIB))
    small = Dataset("safety-classifier", uneven(max(MIB, mib * MIB // _SMALL_SHARE), _WEIGHTS[:3]))
    return Plan(nodes, large, small, [_readme_role(large), *_roles(large, small, nodes, more)], rate * MIB)


def uneven(total: int, weights: tuple[int, ...] = _WEIGHTS) -> dict[str, int]:
    """Sizes in about these proportions that add up to `total`; none is a multiple of any part size."""
    count = len(weights)
    sizes = [total * weight // sum(weights) - 17 * position for position, weight in enumerate(weights, 1)]
    sizes[0] += total - sum(sizes)
    return {f"model-{k:05}-of-{count:05}.safetensors": size for k, size in enumerate(sizes, 1)}


def readme_pod() -> dict[str, Any]:
    """The Pod that the README shows, as it stands there: what people copy is what is played."""
    for block in re.findall(r"```yaml\n(.*?)```", _README.read_text(), re.DOTALL):
        document = yaml.safe_load(block)
        if isinstance(document, dict) and document.get("kind") == "Pod":
            return document
    raise PlanError(f"{_README} shows no Pod in a yaml block; the demo plays it")


def _readme_role(large: Dataset) -> Role:
    role = Role(readme_pod(), "the README's Pod, a whole node", large)
    if role.written != large.uri:
        raise PlanError(f"the README's Pod asks for {role.written}, the demo uploads {large.uri}: make them agree")
    return role


def _roles(large: Dataset, small: Dataset, nodes: int, more: int) -> list[Role]:
    """As many as asked for, the most telling first; what is beyond them wants the large dataset too."""
    # The README's Pod fills one node. Of each other the small Pods share one half at most, so that the trainer's half
    # is free on some node whatever the scheduler does. Who gets no GPU runs without: waiting for room is another demo.
    half = GPUS // 2
    room = iter([1] * half * (nodes - 1))

    def wants(name: str, dataset: Dataset, about: str, *, gpus: int | None = None, late: bool = False) -> Role:
        asked = next(room, 0) if gpus is None else gpus
        return Role(pods.gated(name, dataset.uri, gpus=asked), about, dataset, late=late)

    roles = [
        wants("trainer", large, "cold, half a node", gpus=half if nodes > 1 else 0),
        wants("evals-1", large, "wants the same dataset"),
        wants("safety", small, "another, smaller dataset"),
        Role(
            pods.gated("typo", f"s3://{BUCKET}/gpt-4-wieghts"),
            "names a prefix that is missing",
            error="DatasetNotFound",
        ),
        Role(pods.gated("malformed", "not a uri"), "annotation is not a URI", error="InvalidRequest"),
        wants("latecomer", large, "comes when the data is there", late=True),
    ]
    roles += [wants(f"evals-{k}", large, "wants the same dataset") for k in range(2, more - len(roles) + 2)]
    return roles[:more]


def _number(environment: Mapping[str, str], name: str, *, default: int, least: int) -> int:
    text = environment.get(name, "").strip()
    try:
        value = int(text) if text else default
    except ValueError:
        value = least - 1
    if value < least:
        raise PlanError(f"{name}={text}: write a whole number, at least {least} (default {default})")
    return value
