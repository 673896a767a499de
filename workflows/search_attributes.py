"""Write the search attributes from inside a workflow.

Each upsert is a history event, so phases are upserted and progress never is.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from kube_cache.temporal.search_attributes import BYTES, NODE, PHASE


def upsert(*, phase: str, node: str | None = None, size: int | None = None) -> None:
    """Write the attributes. None leaves one as it is; an empty node clears it. size: bytes."""
    updates: list[SearchAttributeUpdate[Any]] = [PHASE.value_set(phase)]
    if node is not None:
        updates.append(NODE.value_set(node) if node else NODE.value_unset())
    if size is not None:
        updates.append(BYTES.value_set(size))
    workflow.upsert_search_attributes(updates)
