"""The search attributes by which the UI, the CLI and the inventory filter: keys, types, initial values, reader.

Workflows change them in `workflows.search_attributes`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from temporalio.client import WorkflowExecution
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from kube_cache.units import cut

PHASE = SearchAttributeKey.for_keyword("KcPhase")
NODE = SearchAttributeKey.for_keyword("KcNode")
DATASET = SearchAttributeKey.for_keyword("KcDataset")
POD_NAMESPACE = SearchAttributeKey.for_keyword("KcPodNamespace")
POD = SearchAttributeKey.for_keyword("KcPod")
BYTES = SearchAttributeKey.for_int("KcBytes")
REPORTED_PROBLEMS: Final = SearchAttributeKey.for_keyword_list("TemporalReportedProblems")
"""Temporal's own, from 1.30 on: why the tasks of a workflow fail again and again."""
_ALL: Final[tuple[SearchAttributeKey[Any], ...]] = (PHASE, NODE, DATASET, POD_NAMESPACE, POD, BYTES)
TYPES: Final = {key.name: key.indexed_value_type.name.title() for key in _ALL}
"""Name -> type, as `temporal operator search-attribute create` takes them. temporal-dev.yaml and the dev stack register
these attributes; a test compares the two.
"""

# A visibility store in SQL keeps a Keyword in a VARCHAR(255); a longer value is refused, or the workflow goes unseen.
_MAX_KEYWORD_BYTES = 255
_DIGEST_CHARACTERS = 32


def dataset_value(dataset: str) -> str:
    """Return the value of `KcDataset` for a URI, or for an annotation that names several: itself, if it is short.

    A long one is cut, and ends in a digest of the whole, so that equal datasets have equal values and others have not.
    Not a KeywordList with one entry for each URI: 200 of them exceed the 2 KB that Temporal admits for a value, and
    another type of attribute would have to be registered in each Temporal before an upgrade.
    """
    if len(dataset.encode()) <= _MAX_KEYWORD_BYTES:
        return dataset
    digest = hashlib.sha256(dataset.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{cut(dataset, _MAX_KEYWORD_BYTES - _DIGEST_CHARACTERS - 3)}...{digest}"


def initial(
    *, phase: str, dataset: str, node: str = "", namespace: str = "", pod: str = "", size: int | None = None
) -> TypedSearchAttributes:
    """Compose the attributes for `start_workflow`; empty values are left out. size: bytes."""
    pairs: list[SearchAttributePair[Any]] = [SearchAttributePair(PHASE, phase)]
    pairs += [
        SearchAttributePair(key, text)
        for key, text in (
            (DATASET, dataset_value(dataset)),
            (NODE, node),
            (POD_NAMESPACE, namespace),
            (POD, pod),
        )
        if text
    ]
    if size is not None:
        pairs.append(SearchAttributePair(BYTES, size))
    return TypedSearchAttributes(pairs)


def phase_of(execution: WorkflowExecution) -> str:
    """Phase of a listed workflow; empty if the workflow has none."""
    return execution.typed_search_attributes.get(PHASE, "")


def node_of(execution: WorkflowExecution) -> str:
    """Node of a listed workflow; empty if the workflow has none."""
    return execution.typed_search_attributes.get(NODE, "")
