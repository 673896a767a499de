"""A test that does not run is told at the end, with what makes it run."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.plugins import nested

TESTS = """
import pytest

@pytest.mark.needs_server("{server}")
def test_on_a_server(): pass

@pytest.mark.skip(reason="no such hardware")
def test_on_hardware(): pass

def test_alone(): pass
"""
MARKER = "markers=needs_server(name): as in pyproject.toml"


def pytest_on(folder: Path, server: str) -> CompletedProcess[str]:
    (folder / "test_some.py").write_text(TESTS.format(server=server))
    return nested.run(folder, "did_not_run", "-q", "-o", MARKER)


@pytest.fixture
def no_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_CACHE_SERVERS", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def test_the_last_lines_name_each_skipped_test_and_its_remedy(tmp_path: Path, no_servers: None) -> None:
    ran = pytest_on(tmp_path, "kubelet")
    assert ran.returncode == 0, ran.stdout
    first, second = sorted(ran.stdout.splitlines()[-2:])
    assert first == (
        "DID NOT RUN: 1 of test_some.py: kubelet not built; `make servers SERVERS='kubelet'` (some 37 s), then the test runs"
    )
    assert second == "DID NOT RUN: 1 of test_some.py: no such hardware"


def test_a_server_that_nobody_knows_ends_the_run(tmp_path: Path) -> None:
    ran = pytest_on(tmp_path, "kublet")
    assert ran.returncode == 4
    assert "test_some.py::test_on_a_server: unknown server kublet; known:" in ran.stderr


def test_where_the_server_is_built_the_test_runs(
    tmp_path: Path, no_servers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubelet = tmp_path / "bin" / "kubelet"
    kubelet.parent.mkdir()
    kubelet.write_text("#!/bin/sh\necho Kubernetes v1.37.2\n")
    kubelet.chmod(0o755)
    monkeypatch.setenv("PATH", f"{kubelet.parent}:/usr/bin:/bin")
    ran = pytest_on(tmp_path, "kubelet")
    assert "2 passed, 1 skipped" in ran.stdout
