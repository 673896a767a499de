"""The wheels as people install them: which machine takes which, and what each can do there."""

from __future__ import annotations

import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tools import build_native, wheels

pytestmark = pytest.mark.slow

_NO_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by whether they have natives."""
    native, pure = wheels.build(tmp_path_factory.mktemp("dist"))
    return {"native": native, "pure": pure}


class Installed:
    """A wheel in an environment of its own, beside the dependencies of the tests' environment."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.program = folder / "bin/kube-cache"
        self._python = folder / "bin/python"
        install = [sys.executable, "-m", "pip", "--python", str(self._python), "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
        # By path, so that the checkout, which an editable install adds by a hook, is not seen.
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "dependencies.pth").write_text(next(name for name in site.getsitepackages()))

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *words],
            env=_NO_ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    def evaluate(self, script: str) -> str:
        command = [self._python, "-c", script]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


@pytest.fixture(scope="module")
def native(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(built["native"], tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def pure(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(built["pure"], tmp_path_factory.mktemp("pure"))


def test_one_wheel_is_for_linux_from_a_glibc_on_and_one_for_every_machine(built: dict[str, Path]) -> None:
    assert built["pure"].name.endswith("-py3-none-any.whl")
    python, abi, platform = built["native"].stem.split("-")[-3:]
    assert (python, abi) == ("cp311", "abi3")
    assert platform.startswith("manylinux_2_")


def test_the_portable_wheel_needs_no_library_but_the_c_library(built: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built["native"]) as wheel:
        natives = [name for name in wheel.namelist() if name.endswith(".so")]
        wheel.extractall(tmp_path, natives)
    assert {Path(name).name for name in natives} == {"_crc.abi3.so", "_receive.abi3.so", "_check.abi3.so"}
    for name in natives:
        shown = subprocess.run(["ldd", tmp_path / name], check=True, capture_output=True, text=True).stdout
        linked = {line.split()[0].partition(".so")[0] for line in shown.splitlines()}
        assert not {
            library for library in linked if not library.startswith(("linux-vdso", "libc", "libpthread", "/lib"))
        }
    with zipfile.ZipFile(built["pure"]) as wheel:
        assert not [name for name in wheel.namelist() if name.endswith(".so")]


def test_the_tag_names_the_oldest_glibc_that_has_every_symbol(tmp_path: Path) -> None:
    for name, text in (("a", b"\0GLIBC_2.17\0GLIBC_2.9\0"), ("b", b"\0GLIBC_2.34\0\0GLIBC_2.4\0")):
        (tmp_path / name).write_bytes(text)
    assert build_native.platform_tag([tmp_path / "a"]).startswith("manylinux_2_17_")
    assert build_native.platform_tag([tmp_path / "a", tmp_path / "b"]).startswith("manylinux_2_34_")


def test_a_wheel_built_again_is_the_same(built: dict[str, Path], tmp_path: Path) -> None:
    again = wheels.build(tmp_path)
    assert [path.read_bytes() for path in again] == [built["native"].read_bytes(), built["pure"].read_bytes()]


@pytest.mark.parametrize("kind", ["native", "pure"])
def test_every_installation_has_the_commands_that_ask_the_cluster(kind: str, request: pytest.FixtureRequest) -> None:
    installed: Installed = request.getfixturevalue(kind)
    assert "dependencies.pth" not in installed.evaluate("import cli; print(cli.__file__)")
    assert str(installed.program.parents[1]) in installed.evaluate("import cli; print(cli.__file__)")
    assert "savings" in installed.run("--help").stdout
    for words in (["status"], ["why", "ml/train-0"], ["inventory"], ["savings"]):
        said = installed.run(*words, TEMPORAL_ADDRESS="127.0.0.1:1")
        assert "Temporal" in said.stderr + said.stdout, words
        assert "TEMPORAL_ADDRESS" in said.stderr + said.stdout, words
        assert "Traceback" not in said.stderr, words


@pytest.mark.parametrize("words", [["fetch", "s3://a/b", "x"], ["store", "ls"], ["agent"], ["operator"]], ids=" ".join)
def test_what_moves_data_says_what_a_wheel_without_natives_lacks(pure: Installed, words: list[str]) -> None:
    said = pure.run(*words)
    assert (said.returncode, said.stdout) == (1, "")
    assert "no native modules" in said.stderr
    assert "manylinux" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_portable_wheel_fetches_by_pythons_own_tls(native: Installed) -> None:
    assert "Python's ssl" in native.evaluate("from kube_cache.engine import tls; print(tls.implementation())")
    said = native.run("fetch", "s3://a/b", "/nonexistent/x")
    assert "no native modules" not in said.stderr
    assert "Traceback" not in said.stderr
    assert said.returncode != 0


def test_a_wheel_for_the_image_is_not_built_without_all_natives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(SystemExit, match="cannot be built"):
        build_native.for_wheel(tmp_path, "all")
    with pytest.raises(SystemExit, match="KUBE_CACHE_NATIVES=most"):
        build_native.for_wheel(tmp_path, "most")
    assert build_native.for_wheel(tmp_path, "none") == []


def test_without_a_compiler_a_wheel_has_the_command_line_alone_and_the_build_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert build_native.for_wheel(tmp_path, "") == []
    assert "no natives" in capsys.readouterr().err
