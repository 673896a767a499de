"""Measures the structure of the product and fails when it grows together: circles, one big folder, long modules.

`python -m tools.structure` prints the figures; `make check` runs it. import-linter holds the directions that
pyproject.toml names. This tool finds the circle that no contract names. Each import counts, also one inside a function
or for types only, because a reader follows it all the same. A folder's share is that of all code but the tests, C and
`tools/` included. The other figures are of the product's modules in Python, without packages' `__init__.py`.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PRODUCT = ("cli", "watcher", "workflows", "activities", "kube_cache")
OTHERS = ("tools",)
_CODE = {".py", ".c", ".h"}
# The goals of the tree as it was laid out for version 0.1.0.
MAX_FOLDER_SHARE = 0.25
MAX_MEDIAN_LINES = 110
MAX_MODULE_LINES = 400

Graph = Mapping[str, AbstractSet[str]]


class Module(NamedTuple):
    name: str
    """Dotted, as in an import."""
    path: str
    """Relative to the root, with slashes."""
    lines: int
    imports: frozenset[str]
    """Names of the other modules of the product that it imports."""

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class Structure(NamedTuple):
    modules: list[Module]
    lines_by_folder: Mapping[str, int]
    """Lines of code in each folder, without its sub-folders."""

    def problems(self) -> list[str]:
        """One sentence for each limit that is broken; empty when the structure is sound."""
        problems = []
        for kind, graph in (("files", self.file_graph()), ("folders", self.folder_graph())):
            if circle := find_circle(graph):
                problems.append(f"a circle of {kind}: {' -> '.join(circle)}; move what both need to a place below both")
        folder, share = self.largest_folder()
        if share > MAX_FOLDER_SHARE:
            problems.append(
                f"{folder} holds {share:.1%} of the lines, more than {MAX_FOLDER_SHARE:.0%}; split it by noun"
            )
        if (median := self.median_lines()) > MAX_MEDIAN_LINES:
            problems.append(f"the median module has {median:.0f} lines, more than {MAX_MEDIAN_LINES}")
        problems += [
            f"{module.path} has {module.lines} lines, more than {MAX_MODULE_LINES}; split it by noun"
            for module in self.modules
            if module.lines > MAX_MODULE_LINES
        ]
        return problems

    def figures(self) -> list[str]:
        folder, share = self.largest_folder()
        longest = max(self.modules, key=lambda module: module.lines)
        return [
            f"modules          {len(self.modules)}, {sum(module.lines for module in self.modules):,} lines",
            f"circles          of files: {_told(self.file_graph())}; of folders: {_told(self.folder_graph())}",
            f"largest folder   {share:.1%}, {folder} (at most {MAX_FOLDER_SHARE:.0%})",
            f"median module    {self.median_lines():.0f} lines (at most {MAX_MEDIAN_LINES})",
            f"longest module   {longest.lines} lines, {longest.path} (at most {MAX_MODULE_LINES})",
        ]

    def file_graph(self) -> Graph:
        return {module.name: module.imports for module in self.modules}

    def folder_graph(self) -> Graph:
        """Imports between folders.

        A file that lies beside folders counts as a folder of its own, as in the import contracts.
        """
        with_folders = {module.folder.rpartition("/")[0] for module in self.modules}
        rooms = {
            module.name: module.path if module.folder in with_folders else module.folder for module in self.modules
        }
        graph: dict[str, set[str]] = {room: set() for room in rooms.values()}
        for module in self.modules:
            room = rooms[module.name]
            graph[room] |= {rooms[name] for name in module.imports} - {room}
        return graph

    def largest_folder(self) -> tuple[str, float]:
        """Folder with the most lines, and its share of all lines."""
        folder = max(self.lines_by_folder, key=lambda folder: self.lines_by_folder[folder])
        return folder, self.lines_by_folder[folder] / sum(self.lines_by_folder.values())

    def median_lines(self) -> float:
        return statistics.median(module.lines for module in self.modules)


def measure(root: Path, packages: Iterable[str] = PRODUCT, others: Iterable[str] = OTHERS) -> Structure:
    """others: folders that count for the shares only. Raises SyntaxError for a module that does not parse."""
    packages = tuple(packages)
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        if path.name != "__init__.py"
    }
    modules = [_module(root, name, path, paths.keys()) for name, path in paths.items()]
    return Structure(modules, _lines_by_folder(root, (*packages, *others)))


def find_circle(graph: Graph) -> list[str]:
    """One circle, with its first name again at the end; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]  # graphlib gives each name before the one that imports it
    return []


def _module(root: Path, name: str, path: Path, known: AbstractSet[str]) -> Module:
    text = path.read_text()
    imports = frozenset(_imported(ast.parse(text, str(path)))) & known - {name}
    return Module(name, path.relative_to(root).as_posix(), len(text.splitlines()), imports)


def _lines_by_folder(root: Path, folders: Iterable[str]) -> dict[str, int]:
    lines: Counter[str] = Counter()
    for path in (path for folder in folders for path in (root / folder).rglob("*") if path.suffix in _CODE):
        lines[path.parent.relative_to(root).as_posix()] += len(path.read_text().splitlines())
    return dict(lines)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _told(graph: Graph) -> str:
    return "found" if find_circle(graph) else "none"


def main(root: Path = Path(__file__).parents[1]) -> int:
    structure = measure(root)
    print("\n".join(structure.figures()))
    problems = structure.problems()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
