"""The reference of settings in docs/operate/settings.md: a table for each group, from the dataclasses themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from kube_cache.settings import Settings
from tools.pages.declared import explanations
from tools.pages.marks import DOCS, Part, cell

# Heading, and who reads the group.
_GROUPS = {
    "operator": ("Operator", "the operator"),
    "forecast": ("Forecast", "the operator; [prediction](prediction.md) tells what they do"),
    "agent": ("Agent", "the agent"),
    "peers": ("Peers", "the agent"),
    "store": ("Store", "the agent, and `kube-cache store` on the node"),
    "engine": ("Engine", "the agent, `kube-cache fetch` and `store warm`"),
    "origin": ("Origin", "the operator and the agent, which need the same, `kube-cache fetch` and `store warm`"),
    "telemetry": ("Telemetry", "the operator and the agent"),
}
_UNITS = {"_bytes_per_s": "bytes/s", "_bytes": "bytes", "_s": "s", "_dollars_per_hour": "dollars/h"}
_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def render() -> str:
    """Return a heading and a table for each group of settings. Raises KeyError for a group without a heading."""
    settings = Settings.model_construct()
    lines: list[str] = []
    for group in sorted(Settings.model_fields, key=list(_GROUPS).index):
        title, readers = _GROUPS[group]
        lines += [
            f"## {title}",
            "",
            f"Read by {readers}.",
            "",
            "| environment variable | default | may be | meaning |",
            "|---|---|---|---|",
        ]
        lines += _rows(group, type(getattr(settings, group)))
        lines.append("")
    return "\n".join(lines)


def variable(group: str, field: str) -> str:
    """Return the setting's name in the environment."""
    return f"KUBE_CACHE_{group}__{field}".upper()


def _rows(group: str, of: Any) -> Iterator[str]:
    told = explanations(of)
    hints = get_type_hints(of, include_extras=True)
    for field in dataclasses.fields(of):
        if field.name not in told:
            raise KeyError(f"{of.__name__}.{field.name} has no explanation below it")
        default = _default(field.default) if field.repr else "-"
        allowed = _allowed(field.name, hints[field.name])
        yield f"| `{variable(group, field.name)}` | {default} | {allowed} | {cell(told[field.name])} |"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and value.is_integer() and value > 1:
        value = int(value)
    return f"`{value}`" if value != "" else "-"


def _allowed(name: str, hint: Any) -> str:
    """Unit, choices and bounds."""
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    base, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    bounds = [
        f"{sign} {getattr(extra, attribute)}"
        for extra in extras
        for kind, (attribute, sign) in _BOUNDS.items()
        if isinstance(extra, kind)
    ]
    if get_origin(base) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(base))
    if base is bool:
        return "`true`, `false`"
    plain = {int: "whole number", float: "number", str: "text", Path: "folder"}[base]
    return ", ".join([unit or plain, *bounds])


PART = Part(DOCS / "operate" / "settings.md", "settings", render)
