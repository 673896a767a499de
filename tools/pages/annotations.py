"""The reference of annotations in docs/annotations.md, from kube_cache/names.py, and the phases, from the contracts.

In `names` the string below a name is `Meaning. Values: …`, of what users write, or only the meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

from kube_cache import names
from kube_cache.contracts.common import Phase
from tools.pages.declared import explanations
from tools.pages.marks import DOCS, Part, cell

_PAGE = DOCS / "annotations.md"
_VALUES = " Values: "
# What stands in `names` of the Pods of users. A test compares with all names there.
WRITTEN_BY_USERS = (
    "DATASET_ANNOTATION",
    "GATE",
    "MAX_GATE_TIME_ANNOTATION",
    "ON_TIMEOUT_ANNOTATION",
    "PRIORITY_ANNOTATION",
    "VERIFY_ANNOTATION",
    "REQUIRE_ANNOTATION",
    "GROUP_ANNOTATION",
    "GROUP_SIZE_ANNOTATION",
    "ON_STUCK_ANNOTATION",
    "NEIGHBOURS_ANNOTATION",
    "ACTION_ANNOTATION",
)
WRITTEN_BY_US = (
    "CONDITION",
    "STATUS_ANNOTATION",
    "WARMING_ANNOTATION",
    "NODE_ANNOTATION",
    "SNAPSHOT_ANNOTATION",
    "CACHE_ID_ANNOTATION",
    "MANAGED_LABEL",
    "TRACE_ANNOTATION",
)


def users() -> str:
    """Return the table of what users write."""
    told = explanations(names)
    lines = ["| name | values | meaning |", "|---|---|---|"]
    for constant in WRITTEN_BY_USERS:
        meaning, _, values = cell(told[constant]).partition(_VALUES)
        lines.append(f"| `{getattr(names, constant)}` | {values.rstrip('.')} | {meaning} |")
    return "\n".join(lines)


def ours() -> str:
    """Return the table of what the operator writes."""
    told = explanations(names)
    return _table({getattr(names, constant): told[constant] for constant in WRITTEN_BY_US})


def phases() -> str:
    """Return the table of phases: reasons of the condition."""
    told = explanations(Phase)
    return _table({str(Phase[name]): text for name, text in told.items() if Phase[name] not in _NOT_OF_PODS})


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(
        ["| name | meaning |", "|---|---|", *(f"| `{name}` | {cell(text)} |" for name, text in rows.items())]
    )


_NOT_OF_PODS = (Phase.READY, Phase.POD_GONE)
PARTS = (Part(_PAGE, "annotations", users), Part(_PAGE, "marks", ours), Part(_PAGE, "phases", phases))
