"""Shows the rows: a live table on a terminal, elsewhere (CI logs, pipes) a line for each change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kube_cache.contracts.common import Phase
from tools.demo.rows import RUNNING, Row

_COLOURS = {RUNNING: "green", str(Phase.AWAITING_OPERATOR): "red", str(Phase.WARMING): "cyan"}
_BAR_WIDTH = 22


class View:
    """Shows the rows that `show` is given, within `open`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._shown: dict[str, tuple[object, ...]] = {}
        self._live: Live | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        self._started = time.monotonic()
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, rows: list[Row]) -> None:
        if self._live:
            self._live.update(self._table(rows))
            return
        for row in rows:
            key = (row.phase, row.node, None if row.percent is None else int(row.percent) // 10)
            if self._shown.get(row.pod) != key:
                self._shown[row.pod] = key
                self._console.print(Text(self._line(row)), soft_wrap=True)

    def _table(self, rows: list[Row]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, expand=True, title=f"{time.monotonic() - self._started:.0f} s")
        for name in ("Pod", "phase", "node"):
            table.add_column(name, no_wrap=True)
        table.add_column("data on the node", no_wrap=True, width=_BAR_WIDTH + 6)
        table.add_column("rate", justify="right", no_wrap=True)
        table.add_column("ETA", justify="right", no_wrap=True)
        table.add_column("it says", overflow="ellipsis", no_wrap=True, ratio=1)
        for row in rows:
            phase = Text(row.phase, style=_COLOURS.get(row.phase, "yellow"))
            table.add_row(row.pod, phase, row.node, _bar(row), row.rate, row.eta, Text(row.words))
        return table

    def _line(self, row: Row) -> str:
        percent = "" if row.percent is None else f" {row.percent:3.0f} %"
        parts = [f"{row.phase}{percent}", f"on {row.node}" if row.node else "", row.rate]
        parts += [f"ETA {row.eta}" if row.eta else "", row.words if row.phase != Phase.WARMING else ""]
        return f"{time.monotonic() - self._started:6.1f} s  {row.pod:<14} " + "  ".join(part for part in parts if part)


def _bar(row: Row) -> RenderableType:
    if row.percent is None:
        return ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=100, completed=row.percent, width=_BAR_WIDTH), f"{row.percent:3.0f}%")
    return grid
