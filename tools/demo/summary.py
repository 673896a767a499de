"""The final table, from the Pods and the results of their workflows."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from kube_cache.units import format_bytes, format_seconds
from tools.demo.checks import Actor
from tools.stack import pods


def table(actors: list[Actor]) -> Table:
    summary = Table(box=box.SIMPLE_HEAD, title="What happened", title_justify="left")
    for name in ("Pod", "that", "became", "node", "from", "fetched", "gated"):
        summary.add_column(name, overflow="fold")
    summary.add_column("GPU time not held", justify="right")
    for actor in actors:
        summary.add_row(*_cells(actor))
    return summary


def _cells(actor: Actor) -> list[Text | str]:
    result = actor.result
    if result is None or not actor.node:
        reason = str(pods.condition(actor.final).get("message", "")).partition(":")[0]
        became = Text(f"held: {reason}", "red" if actor.role.dataset else "yellow")
        return [actor.name, actor.role.about, became, actor.node, "", "", "", ""]
    return [
        actor.name,
        actor.role.about,
        Text("bound", "green"),
        actor.node,
        "disk" if result.hit else "S3",
        format_bytes(result.fetched_bytes) if result.fetched_bytes else "",
        format_seconds(result.seconds),
        format_seconds(result.gpu_seconds_saved) if result.gpu_seconds_saved else "",
    ]
