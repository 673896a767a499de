"""Reads what a node's disk holds, or fetches, from the execution of its `DatasetOnNode` entity. Asks nobody.

A list of executions is a hint: the visibility store lags, and the disk has the last word.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from temporalio.client import WorkflowExecution

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.temporal.search_attributes import BYTES, DATASET, phase_of

_USEFUL: Final = (Phase.READY, Phase.WARMING, Phase.PAUSED)


class Holding(NamedTuple):
    dataset: str
    """URI; a long one as `dataset_value` cuts it."""
    digest: str
    node: str
    phase: str
    """Ready, Warming or Paused."""
    bytes: int
    """Size of the snapshot; 0 if the entity does not tell."""

    @property
    def ready(self) -> bool:
        """The disk holds the whole snapshot; else the node is fetching it."""
        return self.phase == Phase.READY


def holding_of(entity: WorkflowExecution) -> Holding | None:
    """Return None for an entity that holds nothing of use, and for a workflow that somebody else has started."""
    phase = phase_of(entity)
    if phase not in _USEFUL:
        return None
    try:
        parsed = names.parse_dataset_on_node_id(entity.id)
    except ValueError:
        return None
    attributes = entity.typed_search_attributes
    return Holding(attributes.get(DATASET, ""), parsed.digest, parsed.node, phase, attributes.get(BYTES, 0))
