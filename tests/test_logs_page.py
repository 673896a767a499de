"""docs/operate/logs.md names only events that the product writes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_transition_of_the_page_is_an_event_of_the_product() -> None:
    page = (ROOT / "docs/operate/logs.md").read_text()
    rows = re.findall(r"^\| (?:operator|agent|both) \| ([^|]+)\|", page, flags=re.MULTILINE)
    events = [event for row in rows for event in re.findall(r"`([^`]+)`", row)]
    folders = ("cli", "watcher", "workflows", "activities", "kube_cache")
    source = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert len(events) > 15
    assert [event for event in events if f'"{event}"' not in source] == []
