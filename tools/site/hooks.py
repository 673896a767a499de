"""MkDocs' hooks: the repository's own links work in the site, and the navigation names no page of a folder by hand.

The documentation links to source files as a forge shows them, by a path relative to the page. In the site such a link
leads to a page with the file, so that the site needs neither a forge nor a network. README.md is the site's first page;
other Markdown beside docs/ becomes a page as it is. A link that leads nowhere stays as it is, and MkDocs refuses it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_DOCS = "docs/"
_HOME = "README.md"
# Folders of the site for pages that show a file, or list a folder, of the repository.
_SOURCES, _LISTS = "source", "folder"
# Roots of the walk that no page of docs/ need name.
_OUTSIDE = (_HOME, "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".c": "c",
    ".h": "c",
    ".md": "markdown",
    ".toml": "toml",
}
_MAX_SHOWN = 100_000
"""Characters. Of a longer file the beginning is shown: a dashboard of megabytes is nobody's reading."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each entry `folder/` of the navigation by the folder's pages that no other entry names."""
    named = set(_entries(config.nav))
    config.nav = _expanded(config.nav or [], named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file and folder of the repository that a page links to."""
    todo = [*_OUTSIDE, *(_DOCS + file.src_uri for file in files.documentation_pages())]
    seen: set[str] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith(_DOCS) or (ROOT / path).is_dir():
            files.append(File.generated(config, _place(path), content=_content(path)))
        if path.endswith(".md"):
            todo += [target for target in _targets(path) if not target.startswith(_DOCS) or (ROOT / target).is_dir()]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 -- MkDocs' signature
    """Lead links of the repository to the pages that show what they name."""
    here = page.file.src_uri
    path = _repository_path(here)
    return markdown if path is None else rewritten(markdown, path, here)


def rewritten(markdown: str, path: str, here: str) -> str:
    """Return the text with its links as they are in the site. path: in the repository. here: in the site."""

    def lead(match: re.Match[str]) -> str:
        target = _target(path, match[2])
        if target is None:
            return match[0]
        link = posixpath.relpath(_place(target), posixpath.dirname(here) or ".")
        return f"{match[1]}{link}{match[3] or ''}"

    return _outside_fences(markdown, lambda text: _LINK.sub(lead, text))


def _entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for inner in nav.values():
            yield from _entries(inner)
    else:
        for inner in nav or []:
            yield from _entries(inner)


def _expanded(nav: list[Any], named: set[str]) -> list[Any]:
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("/"):
            pages = sorted(path.relative_to(ROOT / _DOCS).as_posix() for path in (ROOT / _DOCS / entry).glob("*.md"))
            found += [page for page in pages if page not in named]
        elif isinstance(entry, dict):
            found.append({title: _expanded(of, named) if isinstance(of, list) else of for title, of in entry.items()})
        else:
            found.append(entry)
    return found


def _place(path: str) -> str:
    """Return where in the site a file or folder of the repository is shown."""
    if path == _HOME:
        return "index.md"
    if (ROOT / path).is_dir():
        return f"{_LISTS}/{path}.md"
    if path.startswith(_DOCS):
        return path.removeprefix(_DOCS)
    return path if path.endswith(".md") else f"{_SOURCES}/{path}.md"


def _repository_path(place: str) -> str | None:
    """Return the path of what the page is written from; None for a page that shows a file or lists a folder."""
    if place == "index.md":
        return _HOME
    if place.startswith((f"{_SOURCES}/", f"{_LISTS}/")):
        return None
    return _DOCS + place if (ROOT / _DOCS / place).exists() else place


def _target(path: str, link: str) -> str | None:
    """Return the path in the repository that a link of the file names; None if there is no such file of ours."""
    if re.match(r"[a-z]+:", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return None if target.startswith("..") or not (ROOT / target).exists() else target


def _targets(path: str) -> Iterator[str]:
    text = _FENCE.sub("", (ROOT / path).read_text())
    for match in _LINK.finditer(text):
        if (target := _target(path, match[2])) is not None:
            yield target


def _content(path: str) -> str:
    """Return the Markdown of a page that shows the file or lists the folder."""
    of = ROOT / path
    head = f"---\nsearch:\n  exclude: true\n---\n# `{path}`\n\n"
    if of.is_dir():
        return head + "\n".join(_line(path, inner) for inner in sorted(of.iterdir()) if not _is_hidden(inner))
    text = of.read_text()
    if path.endswith(".md"):
        return text
    cut = "" if len(text) <= _MAX_SHOWN else f"The first {_MAX_SHOWN:,} of {len(text):,} characters.\n\n"
    language = _LANGUAGES.get(of.suffix, "text")
    return f"{head}{cut}````{language}\n{text[:_MAX_SHOWN].rstrip()}\n````\n"


def _line(folder: str, inner: Path) -> str:
    if inner.suffix == ".md" and folder.startswith(_DOCS):
        title = inner.read_text().partition("\n")[0].lstrip("# ")
        link = posixpath.relpath(f"{folder}/{inner.name}".removeprefix(_DOCS), posixpath.dirname(f"{_LISTS}/{folder}"))
        return f"* [{title}]({link})"
    return f"* `{inner.name}{'/' if inner.is_dir() else ''}`"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__pycache__")) or path.suffix in {".so", ".pyc"}


def _outside_fences(text: str, change: Any) -> str:
    parts, last = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, change(text[last:])])
