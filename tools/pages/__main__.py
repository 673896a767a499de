"""Writes every generated part of the documentation anew."""

from tools.pages import annotations, cli, metrics, settings
from tools.pages.marks import Part

PARTS = (metrics.PART, settings.PART, *annotations.PARTS, cli.PART)


def stale() -> list[Part]:
    """Return the parts that are not what the code says."""
    return [part for part in PARTS if part.written(part.page.read_text()) != part.page.read_text()]


if __name__ == "__main__":
    for part in stale():
        part.page.write_text(part.written(part.page.read_text()))
        print(f"wrote {part.name} of {part.page.relative_to(part.page.parents[2])}")
