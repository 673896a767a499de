"""The docs name only what is there: links, files and settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from kube_cache.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # the changelog also names what was
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
# Folders whose files are named in full. In `docs/design/store.md` a bare `disk.py` is meant.
FOLDERS = ("activities", "cli", "deploy", "docs", "kube_cache", "tests", "tools", "watcher", "workflows")
FILE = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|c|h|md|yaml|json)")
SETTING = re.compile(r"KUBE_CACHE_[A-Z]+__[A-Z_]*[A-Z]")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in LINK.findall(without_blocks(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue  # another site
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def names_of_settings() -> set[str]:
    settings = Settings()
    return {
        f"KUBE_CACHE_{group}__{field.name}".upper()
        for group in Settings.model_fields
        for field in dataclasses.fields(getattr(settings, group))
    }


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading, `two`\n[a](page.md) [b](gone.md) [c](#one-heading-two) [d](page.md#gone) [e](https://x/y)\n"
    )
    assert dead_links(page) == ["gone.md", "page.md#gone"]


@pytest.mark.parametrize("page", CURRENT, ids=ids)
def test_every_file_that_is_named_in_full_is_there(page: Path) -> None:
    named = [path for code in CODE.findall(page.read_text()) for path in FILE.findall(code)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=ids)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    assert set(SETTING.findall(page.read_text())) - names_of_settings() == set()


def test_every_setting_is_explained_to_operators() -> None:
    explained = {name for page in ROOT.glob("docs/operate/*.md") for name in SETTING.findall(page.read_text())}
    assert names_of_settings() - explained == set()
