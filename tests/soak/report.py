"""The table that a soak prints, and `build/bench/soak.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

_OUT = Path(__file__).parents[2] / "build" / "bench" / "soak.json"
_MAX_SHOWN = 10


@dataclass
class Report:
    seed: int
    minutes: float
    machine: str
    command: str = ""
    wall_s: float = 0.0
    settled_s: float = 0.0
    """Seconds from the end of the disturbances until each Pod was bound, or gated for a true reason."""
    pods: dict[str, int] = field(default_factory=dict)
    disturbances: dict[str, int] = field(default_factory=dict)
    ended_by_themselves: dict[str, int] = field(default_factory=dict)
    last_words: list[str] = field(default_factory=list)
    observed: dict[str, int] = field(default_factory=dict)
    cold_releases: int = 0
    verdicts: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    """Pods that are neither bound nor gated for a true reason in the end."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many Pods were bound, or waited for which reason, in the end."""
    events: dict[str, int] = field(default_factory=dict)
    event_storms: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    """Lines of the product's logs that no server that is away explains."""
    failed_workflows: list[str] = field(default_factory=list)
    found_by_sweeps: dict[str, int] = field(default_factory=dict)
    """What the Pods' own ends have left, and a sweep has removed."""
    leaks: dict[str, list[str]] = field(default_factory=dict)
    """What no sweep has removed, by kind; every kind is named."""

    @property
    def problems(self) -> list[str]:
        """Return what breaks a promise; nothing may."""
        leaked = [f"left for good, {kind}: {what}" for kind, left in self.leaks.items() for what in left]
        return [
            *self.verdicts,
            *self.untrue,
            *self.event_storms,
            *leaked,
            *(f"log of {words}" for words in self.mistakes),
            *(f"failed workflow: {words}" for words in self.failed_workflows),
        ]

    def write(self) -> Path:
        _OUT.parent.mkdir(parents=True, exist_ok=True)
        document = asdict(self) | {"leaks": {kind: len(left) for kind, left in self.leaks.items()}}
        document["problems"] = self.problems
        _OUT.write_text(json.dumps(document, indent=1) + "\n")
        return _OUT

    def print(self, console: Console) -> None:
        table = Table(box=box.SIMPLE, title=f"soak of {self.minutes:g} minutes, seed {self.seed}")
        for column in ("what", "of what", "how many"):
            table.add_column(column, justify="right" if column == "how many" else "left")
        for title, counts in (
            ("Pods", self.pods),
            ("disturbed", self.disturbances),
            ("ended by itself", self.ended_by_themselves),
            ("observed", self.observed),
            ("in the end", self.outcomes),
            ("Events", self.events),
            ("found by sweeps", self.found_by_sweeps),
            ("left for good", {kind: len(left) for kind, left in self.leaks.items()}),
        ):
            for place, (what, count) in enumerate(sorted(counts.items())):
                table.add_row("" if place else title, what, str(count))
        table.add_row("released cold", "", str(self.cold_releases))
        table.add_row("settled", "seconds after the last disturbance", f"{self.settled_s:.0f}")
        console.print(table)
        for words in self.last_words[:_MAX_SHOWN]:
            console.print(f"  {words}")
        for problem in self.problems[:_MAX_SHOWN]:
            console.print(f"  [bold]broken[/bold] {problem}")
