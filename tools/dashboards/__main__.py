"""Writes what is generated: `python -m tools.dashboards`. A test compares, so that nothing committed is stale."""

from __future__ import annotations

from tools.dashboards import render

if __name__ == "__main__":
    for path, text in render.files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
