"""A generated part of a page: what stands between its two marks, and only that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Part:
    """A part of a page. name: of its marks, unique in the page."""

    page: Path
    name: str
    render: Callable[[], str]

    @property
    def begin(self) -> str:
        return f"<!-- begin {self.name}: written by python -m tools.pages -->"

    @property
    def end(self) -> str:
        return f"<!-- end {self.name} -->"

    def written(self, page: str) -> str:
        """Return the page with this part anew. Raises ValueError for a page without the marks."""
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{self.page} lacks the marks of {self.name}: {self.begin} and {self.end}")
        return f"{before}{begin}\n\n{self.render().strip()}\n\n{end}{after}"


def cell(text: str) -> str:
    """Return the text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
