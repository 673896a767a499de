"""The plan of the demo: its size, its two datasets and its Pods. Pure data; starts nothing.

Every role names the expected outcome of its Pod beforehand, so that the checks compare with the plan.
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
"""Percentages of the large dataset's eight objects: uneven, as in real checkpoints."""
_SMALL_SHARE = 8
_DOWNLOAD_S = 10
"""How long the large dataset takes on an otherwise idle node: long enough to watch, short enough to wait for."""


class PlanError(Exception):
    """A size is impossible; the message names its variable."""


@dataclass(frozen=True)
class Dataset:
    prefix: str
    sizes: Mapping[str, int]
    """Object name under the prefix → size in bytes."""

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Role:
    """A Pod and its expected outcome.

    dataset: found on the Pod's node in the end; None if the Pod is to be held by `error`, a class of kube_cache.errors.
    """

    document: dict[str, Any] = field(repr=False)
    about: str
    dataset: Dataset | None = None
    error: str = ""
    late: bool = False
    """Whether the Pod is created when the others are done, so that it finds its data on a disk."""

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def annotation(self) -> str:
        """The dataset as the Pod asks for it."""
        return str(self.document["metadata"]["annotations"][names.DATASET_ANNOTATION])


@dataclass(frozen=True)
class Plan:
    nodes: int
    large: Dataset
    small: Dataset
    roles: list[Role]
    max_bytes_per_s: int
    """Limit of each agent; 0 = none."""


def create(environment: Mapping[str, str]) -> Plan:
    """Plan a demo by DEMO_MIB, DEMO_NODES, DEMO_PODS and DEMO_MIB_PER_S. Raises PlanError."""
    mib = _number(environment, "DEMO_MIB", default=1024, minimum=1)
    nodes = _number(environment, "DEMO_NODES", default=3, minimum=1)
    pod_count = _number(environment, "DEMO_PODS", default=6, minimum=0)
    rate = _number(environment, "DEMO_MIB_PER_S", default=max(1, mib // _DOWNLOAD_S), minimum=0)
    large = Dataset("gpt-4-weights", uneven(mib * MIB))
    small = Dataset("safety-classifier", uneven(max(MIB, mib * MIB // _SMALL_SHARE), _WEIGHTS[:3]))
    return Plan(nodes, large, small, [_readme_role(large), *_roles(large, small, nodes, pod_count)], rate * MIB)


def uneven(total: int, weights: tuple[int, ...] = _WEIGHTS) -> dict[str, int]:
    """Split `total` bytes in about these proportions; no size is a multiple of a part size."""
    count = len(weights)
    sizes = [total * weight // sum(weights) - 17 * position for position, weight in enumerate(weights, 1)]
    sizes[0] += total - sum(sizes)
    return {f"model-{k:05}-of-{count:05}.safetensors": size for k, size in enumerate(sizes, 1)}


def readme_pod() -> dict[str, Any]:
    """Return the Pod of the README unchanged, so that the demo plays what people copy."""
    for block in re.findall(r"```yaml\n(.*?)```", _README.read_text(), re.DOTALL):
        document = yaml.safe_load(block)
        if isinstance(document, dict) and document.get("kind") == "Pod":
            return document
    raise PlanError(f"{_README} shows no Pod in a yaml block; the demo plays it")


def _readme_role(large: Dataset) -> Role:
    role = Role(readme_pod(), "the README's Pod, a whole node", large)
    if role.annotation != large.uri:
        raise PlanError(f"the README's Pod asks for {role.annotation}, the demo uploads {large.uri}: make them agree")
    return role


def _roles(large: Dataset, small: Dataset, nodes: int, count: int) -> list[Role]:
    """Return `count` roles, the most telling first; further ones ask for the large dataset too."""
    # The README's Pod fills one node. The small Pods share at most one half of each other node, so that the trainer's
    # half is free on some node whatever the scheduler does. Further small Pods get no GPU: waiting for one is another
    # demo.
    half = GPUS // 2
    free_gpus = iter([1] * half * (nodes - 1))

    def reader(name: str, dataset: Dataset, about: str, *, gpus: int | None = None, late: bool = False) -> Role:
        gpu_count = next(free_gpus, 0) if gpus is None else gpus
        return Role(pods.gated(name, dataset.uri, gpus=gpu_count), about, dataset, late=late)

    roles = [
        reader("trainer", large, "cold, half a node", gpus=half if nodes > 1 else 0),
        reader("evals-1", large, "wants the same dataset"),
        reader("safety", small, "another, smaller dataset"),
        Role(
            pods.gated("typo", f"s3://{BUCKET}/gpt-4-wieghts"),
            "names a prefix that is missing",
            error="DatasetNotFound",
        ),
        Role(
            pods.gated("lost", "s3://no-such-bucket/gpt-4"), "names a bucket that is missing", error="DatasetNotFound"
        ),
        reader("latecomer", large, "comes when the data is there", late=True),
    ]
    roles += [reader(f"evals-{k}", large, "wants the same dataset") for k in range(2, count - len(roles) + 2)]
    return roles[:count]


def _number(environment: Mapping[str, str], name: str, *, default: int, minimum: int) -> int:
    text = environment.get(name, "").strip()
    try:
        value = int(text) if text else default
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise PlanError(f"{name}={text}: write a whole number, at least {minimum} (default {default})")
    return value
