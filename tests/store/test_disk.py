"""The disk's hands stay beneath its root, whatever stands in the way, with openat2 and without it."""

from __future__ import annotations

import ast
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kube_cache.store
from kube_cache.store import beneath
from kube_cache.store.disk import Disk

OUTSIDE = b"not ours"


@pytest.fixture(params=["openat2", "folder by folder"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Beside its root lies `outside`, which every link in the root leads to."""
    if request.param == "folder by folder":
        monkeypatch.setattr(beneath, "USES_OPENAT2", False)
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "f").write_bytes(OUTSIDE)
    (outside / "d/f").write_bytes(OUTSIDE)
    outside.chmod(0o750)
    (outside / "f").chmod(0o640)
    root = tmp_path / "root"
    disk = Disk()
    disk.open(root)
    for name, target in (("link", outside), ("file-link", outside / "f"), ("up", Path("../outside"))):
        (root / name).symlink_to(target)
    (root / "own").mkdir()
    (root / "own/f").write_bytes(b"ours")
    os.mkfifo(root / "fifo")
    return disk


def picture(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and content of all below the folder."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else None) for path in paths}


DEEDS: dict[str, Callable[[Disk, str], object]] = {
    "make_folder": lambda disk, path: disk.make_folder(f"{path}/new/folder"),
    "write": lambda disk, path: disk.write(f"{path}/f", [b"x"]),
    "write_whole": lambda disk, path: disk.write_whole(f"{path}/f", [b"x"]),
    "link out": lambda disk, path: disk.link("own/f", f"{path}/g"),
    "link in": lambda disk, path: disk.link(f"{path}/f", "own/g"),
    "symlink": lambda disk, path: disk.symlink("x", f"{path}/g"),
    "rename out": lambda disk, path: disk.rename("own/f", f"{path}/f"),
    "rename in": lambda disk, path: disk.rename(f"{path}/f", "own/f"),
    "unlink": lambda disk, path: disk.unlink(f"{path}/f"),
    "remove_folder": lambda disk, path: disk.remove_folder(f"{path}/d"),
    "set_mode": lambda disk, path: disk.set_mode(f"{path}/f", 0o777),
    "set_folder_mode": lambda disk, path: disk.set_folder_mode(path, 0o777),
    "set_link_time": lambda disk, path: disk.set_link_time(f"{path}/f", 0),
    "sync_folder": lambda disk, path: disk.sync_folder(path),
    "stat": lambda disk, path: disk.stat(f"{path}/f"),
    "names": lambda disk, path: disk.names(path),
    "entries": lambda disk, path: disk.entries(path),
    "read_link": lambda disk, path: disk.read_link(f"{path}/f"),
    "read": lambda disk, path: disk.read(f"{path}/f"),
    "open_folder": lambda disk, path: disk.open_folder(path),
    "open_lock": lambda disk, path: disk.open_lock(f"{path}/f"),
}


@pytest.mark.parametrize("way", ["link", "up", "link/d", "../outside", "own/../../outside", "/", "file-link", "fifo"])
def test_no_path_leads_out_of_the_root_by_a_link_or_by_its_own_words(disk: Disk, tmp_path: Path, way: str) -> None:
    before, own = picture(tmp_path / "outside"), picture(tmp_path / "root/own")
    path = str(tmp_path / "outside") if way == "/" else way
    for name, deed in DEEDS.items():
        with pytest.raises(OSError):
            deed(disk, path)
        assert picture(tmp_path / "outside") == before, name
        assert picture(tmp_path / "root/own") == own, name


def test_the_last_name_of_a_path_is_not_followed_either(disk: Disk, tmp_path: Path) -> None:
    before = picture(tmp_path / "outside")
    for deed in (
        lambda: disk.set_mode("file-link", 0o777),
        lambda: disk.read("file-link"),
        lambda: disk.set_mode("own", 0o777),
        lambda: disk.set_folder_mode("own/f", 0o777),
        lambda: disk.open_lock("file-link"),
    ):
        with pytest.raises(OSError):
            deed()
    assert stat.S_ISLNK(disk.stat("file-link").st_mode)
    assert not disk.is_folder("link")
    disk.remove_tree("link")
    disk.write("file-link", [b"ours"])
    assert disk.read("file-link") == b"ours"
    assert picture(tmp_path / "outside") == before


def test_what_is_written_anew_is_never_written_into_another_name_of_a_file(disk: Disk, tmp_path: Path) -> None:
    disk.link("own/f", "own/other")
    disk.write("own/other", [b"new"])
    assert (disk.read("own/f"), disk.read("own/other")) == (b"ours", b"new")


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(disk: Disk) -> None:
    def read() -> None:
        for deed in (lambda: disk.read("fifo"), lambda: disk.set_mode("fifo", 0o444)):
            with pytest.raises(FileNotFoundError, match="something else"):
                deed()
        disk.write("fifo", [b"x"])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert disk.read("fifo") == b"x"


def deep_tree(top: Path, depth: int) -> None:
    """Make folders in folders, further down than any path reaches, and a link out of the root in the last one."""
    above = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.symlink("/", "link", dir_fd=above)
    os.close(above)


def test_a_tree_of_any_depth_is_removed_and_links_in_it_are_not_followed(disk: Disk, tmp_path: Path) -> None:
    before = picture(tmp_path / "outside")
    deep_tree(tmp_path / "root/own", 5000)
    (tmp_path / "root/own/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/own").chmod(0o000)
    assert sum(1 for _ in disk.walk("own")) < 5000
    disk.remove_tree("own")
    assert not disk.exists("own")
    assert picture(tmp_path / "outside") == before


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_no_descriptor_is_left_open(disk: Disk) -> None:
    before = len(descriptors())
    for deed in DEEDS.values():
        for way in ("link", "own", "nowhere", "own/f"):
            try:
                result = deed(disk, way)
            except OSError:
                continue
            if type(result) is int:
                os.close(result)
    disk.make_folder("many")
    with disk.keep_folders():
        for number in range(1000):
            disk.make_folder(f"many/{number}")
            disk.write(f"many/{number}/f", [b""])
        assert len(descriptors()) < before + 600
        disk.rename("many", "moved")
        disk.make_folder("many/7")
        assert not disk.exists("many/7/f"), "a folder that was kept open is not taken for the one that has its name now"
    assert len(descriptors()) == before


def test_an_error_names_the_whole_path(disk: Disk, tmp_path: Path) -> None:
    for path in ("own/none", "own/none/f", "none"):
        with pytest.raises(FileNotFoundError) as error:
            disk.stat(path)
        assert str(error.value.filename).startswith(f"{tmp_path}/root/{path.removesuffix('/f')}")


def test_a_root_that_was_replaced_is_noticed(disk: Disk, tmp_path: Path) -> None:
    assert disk.is_current()
    (tmp_path / "root").rename(tmp_path / "old")
    assert not disk.is_current()
    (tmp_path / "root").mkdir()
    assert not disk.is_current()
    disk.open(tmp_path / "root")
    assert disk.names("") == []


# Who may touch files at all.

FREE = {
    "disk.py": "the seam itself",
    "beneath.py": "opens folders for it",
    "index.py": "SQLite opens its files by path",
    "index_reader.py": "SQLite again: copies an index whose file system is read-only",
    "index_schema.py": "SQLite again",
    "mounts.py": "reads /proc",
    "disk_errors.py": "asks for the state of the root after an error",
    "filesystem/guard.py": "reads /proc, /sys and the root's own mount",
    "filesystem/probe.py": "tries the file system in a scratch folder of its own, before there is a cache",
}
HARMLESS = {
    "close", "fstat", "fdopen", "preadv", "getpid", "cpu_count", "fsencode", "fsdecode", "uname", "strerror",
    "stat_result", "SEEK_CUR", "O_DIRECT", "path", "normpath", "relpath", "PathLike",
}  # fmt: skip
"""Names of `os` that touch no file by a path."""
OF_PATH = {
    "read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "glob", "rglob", "symlink_to",
    "hardlink_to", "readlink", "resolve", "is_symlink", "is_file", "is_dir", "mkdir", "rmdir", "chmod", "lstat",
}  # fmt: skip


def touches(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr not in HARMLESS:
                yield f"line {node.lineno}: os.{node.attr}"
            elif ast.unparse(node.value) == "os.path" and node.attr not in HARMLESS:
                yield f"line {node.lineno}: os.path.{node.attr}"
            elif node.attr in OF_PATH and ast.unparse(node.value) != "os":
                yield f"line {node.lineno}: .{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            yield f"line {node.lineno}: open()"
        elif isinstance(node, ast.Import) and {alias.name for alias in node.names} & {"shutil", "tempfile", "glob"}:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_module_of_the_store_but_the_disk_touches_files() -> None:
    folder = Path(kube_cache.store.__file__).parent
    found = {
        name: list(touches(ast.parse(path.read_text())))
        for path in sorted(folder.rglob("*.py"))
        if (name := path.relative_to(folder).as_posix()) not in FREE
    }
    # `os.stat` with a descriptor that `beneath` opened, for each of 100,000 files where there is no compiler.
    found["check.py"] = [touch for touch in found["check.py"] if not touch.endswith(": os.stat")]
    assert {name: what for name, what in found.items() if what} == {}
    assert all((folder / name).exists() for name in FREE)
