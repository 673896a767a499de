"""The structure check sees what it is there for. `make check` runs it over the product itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import structure
from tools.structure import MAX_MEDIAN_LINES, MAX_MODULE_LINES, Structure, measure

PACKAGES = ("cli", "watcher", "library")
# Five folders of equal size. `settings` and `names` lie beside folders: one imports a folder that imports the other.
SOUND = {
    "cli/main.py": "from watcher.pods import on_pod\nfrom library.settings import Settings\n",
    "watcher/pods.py": "from library.disk.store import put\n\n",
    "library/settings.py": "import library.wire.engine\n",
    "library/names.py": "ID = 1\n",
    "library/disk/store.py": "from library import names\n\n",
    "library/wire/engine.py": "import library.names\n\n",
}


def tree(root: Path, files: dict[str, str]) -> Structure:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return measure(root, PACKAGES, others=["tools"])


def test_a_sound_tree_has_no_problem(tmp_path: Path) -> None:
    sound = tree(tmp_path, SOUND)
    assert sound.problems() == []
    assert sound.largest_folder()[1] == 0.2
    assert sound.median_lines() == 2


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("from library.disk import index", id="module of a package"),
        pytest.param("from library.disk.index import Index", id="name of a module"),
        pytest.param("import library.disk.index", id="import"),
        pytest.param("def late():\n    from library.disk import index", id="in a function"),
        pytest.param("if TYPE_CHECKING:\n    from library.disk.index import Index", id="for types only"),
    ],
)
def test_a_circle_of_two_files_is_named(tmp_path: Path, line: str) -> None:
    changed = {"library/disk/index.py": "from library.disk.store import put\n", "library/disk/store.py": line}
    (problem, *_) = tree(tmp_path, SOUND | changed).problems()
    assert problem.startswith("a circle of files: ")
    assert (
        "library.disk.store -> library.disk.index" in problem or "library.disk.index -> library.disk.store" in problem
    )


def test_a_circle_of_three_files_is_named_in_the_order_of_its_imports(tmp_path: Path) -> None:
    circle = {
        "library/disk/store.py": "from library.disk import index\n",
        "library/disk/index.py": "from library.disk import layout\n",
        "library/disk/layout.py": "from library.disk import store\n",
    }
    (problem, *_) = tree(tmp_path, SOUND | circle).problems()
    assert (
        "library.disk.store -> library.disk.index" in problem or "library.disk.index -> library.disk.layout" in problem
    )


def test_a_circle_of_folders_needs_no_circle_of_files(tmp_path: Path) -> None:
    up = {
        "library/disk/scrub.py": "from library.wire import engine\n",
        "library/wire/tls.py": "import library.disk.store",
    }
    (problem,) = tree(tmp_path, SOUND | up).problems()
    assert problem.startswith("a circle of folders: library/")


def test_a_file_does_not_import_itself(tmp_path: Path) -> None:
    assert tree(tmp_path, SOUND | {"library/names.py": "import library.names\n"}).problems() == []


def test_a_folder_that_grows_is_named_with_its_share(tmp_path: Path) -> None:
    (problem,) = tree(tmp_path, SOUND | {"watcher/starter.py": "\n"}).problems()
    assert problem == "watcher holds 27.3% of the lines, more than 25%; split it by noun"


def test_c_counts_for_the_share_of_its_folder(tmp_path: Path) -> None:
    (problem,) = tree(tmp_path, SOUND | {"library/disk/_check.c": "\n", "library/disk/_check.h": "\n"}).problems()
    assert problem.startswith("library/disk holds 33.3% of the lines")


def test_the_share_is_that_of_tools_too(tmp_path: Path) -> None:
    assert tree(tmp_path, SOUND | {"watcher/starter.py": "\n", "tools/demo.py": "\n"}).problems() == []


def test_docstrings_of_packages_do_not_flatter_the_median(tmp_path: Path) -> None:
    tree(tmp_path, SOUND)
    (tmp_path / "watcher/__init__.py").write_text('"""Events into starts."""\n')
    assert measure(tmp_path, PACKAGES).median_lines() == 2


def test_a_sub_folder_is_a_folder_of_its_own(tmp_path: Path) -> None:
    assert tree(tmp_path, SOUND | {"watcher/leases/lease.py": "\n"}).problems() == []


def test_the_longest_module_that_is_allowed_is_allowed(tmp_path: Path) -> None:
    (problem,) = tree(tmp_path, SOUND | {"watcher/pods.py": "\n" * MAX_MODULE_LINES}).problems()
    assert problem.startswith("watcher holds")


def test_a_module_that_is_too_long_is_named(tmp_path: Path) -> None:
    problems = tree(tmp_path, SOUND | {"watcher/pods.py": "\n" * (MAX_MODULE_LINES + 1)}).problems()
    assert (
        problems[-1]
        == f"watcher/pods.py has {MAX_MODULE_LINES + 1} lines, more than {MAX_MODULE_LINES}; split it by noun"
    )


@pytest.mark.parametrize(("lines", "sound"), [(MAX_MEDIAN_LINES, True), (MAX_MEDIAN_LINES + 1, False)])
def test_the_median_is_bounded(tmp_path: Path, lines: int, *, sound: bool) -> None:
    longer = {name: text + "\n" * (lines - len(text.splitlines())) for name, text in SOUND.items()}
    problems = [problem for problem in tree(tmp_path, longer).problems() if "median" in problem]
    assert problems == [] if sound else [f"the median module has {lines} lines, more than {MAX_MEDIAN_LINES}"]


def test_a_problem_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "watcher").mkdir()
    (tmp_path / "watcher/pods.py").write_text("from watcher import starter\n")
    (tmp_path / "watcher/starter.py").write_text("from watcher import pods\n")
    assert structure.main(tmp_path) == 1
    told = capsys.readouterr()
    assert "of files: found; of folders: none" in told.out
    assert "error: a circle of files: watcher." in told.err
