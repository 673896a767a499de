"""Progress of a fetch on standard error: a bar on a terminal, elsewhere (CI logs, init containers) a line each 10 s."""

from __future__ import annotations

import sys
import time
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from kube_cache.dataset.transfer import FetchProgress
from kube_cache.units import format_bytes, format_seconds

_EVERY_S: Final = 10.0


class Display:
    """Shows what it is given, from one thread, while the context lasts."""

    def __init__(self, subject: str, *, every_s: float = _EVERY_S) -> None:
        self._subject = subject
        self._every_s = every_s
        self._shown_at = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._subject, total=None, words="listing")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def listed(self, keys: int) -> None:
        """Show how many keys the origin has listed so far."""
        self._show(f"listing: {keys} objects", None, None)

    def fetched(self, now: FetchProgress) -> None:
        self._show(words(now), now.done_bytes, now.total_bytes)

    def _show(self, text: str, done: int | None, total: int | None) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done or 0, total=total, words=text)
        elif time.monotonic() - self._shown_at >= self._every_s:
            self._shown_at = time.monotonic()
            print(f"kube-cache: {self._subject}: {text}", file=sys.stderr, flush=True)


def words(now: FetchProgress) -> str:
    """Say how far a fetch is: `53 % of 60.0 MiB, 7.0 MiB/s, done in 4.0s`."""
    percent = 100 * now.done_bytes // max(1, now.total_bytes)
    text = f"{percent} % of {format_bytes(now.total_bytes)}, {format_bytes(now.bytes_per_s)}/s"
    if now.bytes_per_s > 0 and now.done_bytes < now.total_bytes:
        text += f", done in {format_seconds((now.total_bytes - now.done_bytes) / now.bytes_per_s)}"
    return text
