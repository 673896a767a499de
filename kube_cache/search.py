"""The search attributes, typed once; the UI, the CLI and the inventory query filter by them.

Only their keys and their initial values: workflows change them (workflows.attributes).
"""

from __future__ import annotations

from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

PHASE = SearchAttributeKey.for_keyword("KcPhase")
NODE = SearchAttributeKey.for_keyword("KcNode")
DATASET = SearchAttributeKey.for_keyword("KcDataset")
POD_NAMESPACE = SearchAttributeKey.for_keyword("KcPodNamespace")
POD = SearchAttributeKey.for_keyword("KcPod")
BYTES = SearchAttributeKey.for_int("KcBytes")


def initial(
    *, phase: str, dataset: str, node: str = "", namespace: str = "", pod: str = "", size: int | None = None
) -> TypedSearchAttributes:
    """For `start_workflow`; what is empty is left out."""
    pairs: list[SearchAttributePair[Any]] = [SearchAttributePair(PHASE, phase), SearchAttributePair(DATASET, dataset)]
    pairs += [
        SearchAttributePair(key, text) for key, text in ((NODE, node), (POD_NAMESPACE, namespace), (POD, pod)) if text
    ]
    if size is not None:
        pairs.append(SearchAttributePair(BYTES, size))
    return TypedSearchAttributes(pairs)
