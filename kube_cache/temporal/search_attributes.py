"""The search attributes by which the UI, the CLI and the inventory filter: keys, types, initial values, reader.

Workflows change them in `workflows.search_attributes`.
"""

from __future__ import annotations

from typing import Any, Final

from temporalio.client import WorkflowExecution
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

PHASE = SearchAttributeKey.for_keyword("KcPhase")
NODE = SearchAttributeKey.for_keyword("KcNode")
DATASET = SearchAttributeKey.for_keyword("KcDataset")
POD_NAMESPACE = SearchAttributeKey.for_keyword("KcPodNamespace")
POD = SearchAttributeKey.for_keyword("KcPod")
BYTES = SearchAttributeKey.for_int("KcBytes")
_ALL: Final[tuple[SearchAttributeKey[Any], ...]] = (PHASE, NODE, DATASET, POD_NAMESPACE, POD, BYTES)
TYPES: Final = {key.name: key.indexed_value_type.name.title() for key in _ALL}
"""Name -> type, as `temporal operator search-attribute create` takes them. temporal-dev.yaml and the dev stack register
these attributes; a test compares the two.
"""


def initial(
    *, phase: str, dataset: str, node: str = "", namespace: str = "", pod: str = "", size: int | None = None
) -> TypedSearchAttributes:
    """Compose the attributes for `start_workflow`; empty values are left out. size: bytes."""
    pairs: list[SearchAttributePair[Any]] = [SearchAttributePair(PHASE, phase), SearchAttributePair(DATASET, dataset)]
    pairs += [
        SearchAttributePair(key, text) for key, text in ((NODE, node), (POD_NAMESPACE, namespace), (POD, pod)) if text
    ]
    if size is not None:
        pairs.append(SearchAttributePair(BYTES, size))
    return TypedSearchAttributes(pairs)


def phase_of(execution: WorkflowExecution) -> str:
    """Phase of a listed workflow; empty if the workflow has none."""
    return execution.typed_search_attributes.get(PHASE, "")
