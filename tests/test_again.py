"""A second chance is for a few tests of a whole run, and for nothing else."""

from __future__ import annotations

import io
from typing import Literal

import pytest

from tests.again import MAX_TESTS, NoSecondChance, failed_tests
from tests.plugins.run_log import RunLog

BEGIN = [
    "10:00:00 starts  tests/a.py::one",
    "10:00:01 FAILED  tests/a.py::one",
    "10:00:01 ends    tests/a.py::one, 1.0 s, gw0",
]
FAILED = "10:00:09 exit status 1"


def test_each_failed_test_is_named_once_whatever_its_name_holds() -> None:
    name = "tests/a.py::two[StatefulSet, exit status 0]"
    lines = [*BEGIN, f"10:00:02 FAILED  {name}", f"10:00:03 FAILED  {name}", FAILED]
    assert failed_tests(lines) == ["tests/a.py::one", name]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "cut off"),
        (BEGIN, "cut off"),
        ([*BEGIN, "10:00:09 exit status 2"], "status 2"),
        ([*BEGIN, "10:00:09 exit status 3"], "status 3"),
        ([FAILED], "without a test"),
        ([*(f"10:00:01 FAILED  tests/a.py::n[{k}]" for k in range(MAX_TESTS + 1)), FAILED], f"more than {MAX_TESTS}"),
    ],
)
def test_what_was_cut_off_or_broken_gets_no_second_run(lines: list[str], words: str) -> None:
    with pytest.raises(NoSecondChance, match=words):
        failed_tests(lines)


def test_what_a_run_writes_down_is_what_is_run_again() -> None:
    file = io.StringIO()
    log = RunLog(file)
    when: Literal["call", "teardown"]
    for nodeid, when in (("tests/a.py::fails", "call"), ("tests/a.py::leaves a thread", "teardown")):
        log.pytest_runtest_logstart(nodeid)
        place = ("tests/a.py", 1, nodeid)
        log.pytest_runtest_logreport(pytest.TestReport(nodeid, place, {}, "failed", "why", when))
    log.pytest_sessionfinish(pytest.ExitCode.TESTS_FAILED)
    assert failed_tests(file.getvalue().splitlines()) == ["tests/a.py::fails", "tests/a.py::leaves a thread"]
