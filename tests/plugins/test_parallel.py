"""Two processes divide the run: one of them has the tests of the stack, and nothing runs twice or not at all."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugins import nested
from tests.plugins.parallel import piece_of

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(9))
def test_one(number):
    assert number
"""
RAN = re.compile(r"^\[(gw\d)\].* (?:PASSED|FAILED) (\S+)::", re.MULTILINE)


def test_the_stacks_tests_stay_in_one_process_and_failures_are_told_last(tmp_path: Path) -> None:
    stack = [f"tests/e2e/test_{name}.py" for name in "abc"]
    others = [f"tests/other/test_{name}.py" for name in "de"]
    for name in (*stack, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(TESTS)
    ran = nested.run(tmp_path, "parallel", "-n", "2", "-v", "-ra", "-o", "markers=stack: as in pyproject.toml")
    *_, last = lines = ran.stdout.splitlines()
    assert ran.returncode == 1
    assert "5 failed, 40 passed" in last
    assert {line.split()[:2][1] for line in lines[-6:-1] if line.startswith("FAILED")} == {
        f"{name}::test_one[0]" for name in (*stack, *others)
    }
    places = RAN.findall(ran.stdout)
    (of_stack,) = {worker for worker, file in places if file in stack}
    assert {worker for worker, file in places if file == others[0]} != {of_stack}, "the other begins with other files"


def test_tests_that_share_a_real_node_are_one_piece() -> None:
    pieces = {piece_of(f"tests/{file}::test_one") for file in ("node/test_a.py", "node/test_b.py")}
    assert pieces == {"tests/node"}
    assert piece_of("tests/kube/test_node.py::test_one") == "tests/kube/test_node.py"
