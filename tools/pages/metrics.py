"""The tables of metrics in docs/operate/metrics.md, from the declarations.

Sorted by name: the order of the declarations follows that of the imports, which differs from process to process.
"""

from __future__ import annotations

from collections.abc import Iterator

from kube_cache.telemetry.declarations import Bound, Capped, Counting, Declaration, Process
from kube_cache.telemetry.metrics import DECLARED
from tools.pages.marks import DOCS, Part

_TITLES = {
    Process.OPERATOR: "## Of the operator",
    Process.AGENT: "## Of the agent",
    Process.BOTH: "## Of both",
}
# A set with more values is described by its first few.
_MAX_NAMED = 9


def render() -> str:
    """Return the tables."""
    lines: list[str] = []
    for process, title in _TITLES.items():
        found = sorted(
            (declared for declared in DECLARED.declarations if declared.process == process), key=lambda each: each.name
        )
        lines += [title, "", "| metric | type | labels | a repeat | meaning |", "|---|---|---|---|---|"]
        lines += [_row(declared) for declared in found]
        lines.append("")
    return "\n".join(lines)


def _row(declared: Declaration) -> str:
    labels = "; ".join(_labels(declared)) or "-"
    counting = "-" if declared.counting == Counting.STATE else str(declared.counting)
    return f"| `{declared.name}` | {declared.kind} | {labels} | {counting} | {declared.help} |"


def _labels(declared: Declaration) -> Iterator[str]:
    for name, bound in declared.labels.items():
        yield f"`{name}`: {_values(bound)}"


def _values(bound: Bound) -> str:
    if isinstance(bound, Capped):
        return f"the first {bound.limit} that come"
    values = list(bound)
    more = f", … ({len(values)})" if len(values) > _MAX_NAMED else ""
    return ", ".join(values[:_MAX_NAMED]) + more


PART = Part(DOCS / "operate" / "metrics.md", "metrics", render)
