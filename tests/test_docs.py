"""The docs name only what is there: links, files and settings. The site of them is whole and needs no other host."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kube_cache.settings import Settings
from tools.site import hooks

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # the changelog also names what was
LOADED = re.compile(r'<(?:script|img|link|iframe)[^>]*?(?:src|href)="([^"]+)"')
CODE = re.compile(r"`([^`\n]+)`")
# Folders whose files are named in full. In `docs/design/store.md` a bare `disk.py` is meant.
FOLDERS = ("activities", "cli", "deploy", "docs", "kube_cache", "tests", "tools", "watcher", "workflows")
FILE = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|c|h|md|yaml|json)")
SETTING = re.compile(r"KUBE_CACHE_[A-Z]+__[A-Z_]*[A-Z]")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def built(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)


def names_of_settings() -> set[str]:
    settings = Settings()
    return {
        f"KUBE_CACHE_{group}__{field.name}".upper()
        for group in Settings.model_fields
        for field in dataclasses.fields(getattr(settings, group))
    }


def test_every_link_and_anchor_leads_somewhere_and_no_page_needs_another_host(tmp_path: Path) -> None:
    result = built(ROOT / "mkdocs.yml", tmp_path)
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    loaded = {address for page in pages for address in LOADED.findall(page.read_text())}
    assert [address for address in loaded if re.match(r"[a-z]*:?//", address)] == []


@pytest.mark.parametrize(
    ("link", "found"),
    [
        pytest.param("page.md#one-heading-two", "", id="a heading"),
        pytest.param("gone.md", "gone.md", id="no page"),
        pytest.param("page.md#gone", "#gone", id="no heading"),
        pytest.param("../gone/gone.py", "gone/gone.py", id="no file"),
    ],
)
def test_a_dead_link_is_found(link: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Index\n\n[link]({link})\n\n[x](page.md)\n")
    (tmp_path / "docs" / "page.md").write_text("# One heading, `two`\n")
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.UnsafeLoader)  # it names the function that makes anchors
    del config["nav"], config["hooks"], config["theme"]
    (tmp_path / "mkdocs.yml").write_text(yaml.dump(config))
    result = built(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert (result.returncode != 0) == bool(found), result.stderr
    assert found in result.stderr


def test_a_link_to_a_source_file_leads_to_its_page_in_the_site() -> None:
    text = "[a](../cli/app.py) [b](operate/store.md#settings) [c](../README.md) [d](operate)\n```\n[e](../cli/app.py)\n```\n"
    assert hooks.rewritten(text, "docs/page.md", "page.md") == (
        "[a](source/cli/app.py.md) [b](operate/store.md#settings) [c](index.md) [d](folder/docs/operate.md)\n"
        "```\n[e](../cli/app.py)\n```\n"
    )


def test_a_link_to_nothing_stays_as_it_is_and_is_refused() -> None:
    assert hooks.rewritten("[a](../gone.py)", "docs/page.md", "page.md") == "[a](../gone.py)"


@pytest.mark.parametrize("page", CURRENT, ids=ids)
def test_every_file_that_is_named_in_full_is_there(page: Path) -> None:
    named = [path for code in CODE.findall(page.read_text()) for path in FILE.findall(code)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=ids)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    assert set(SETTING.findall(page.read_text())) - names_of_settings() == set()
