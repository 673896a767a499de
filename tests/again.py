"""Runs once more, in one process, the few tests that failed in the run before: `make test-again`, for CI.

Two cores run two stacks of some fifteen real servers, on a machine that others use, too. A test that fails there and
passes alone is a bug of the test or a race of the product: it is told by name as the last words, to be mended, and does
not hold up a change that has nothing to do with it. A run that was cut off, or in which more than a few tests failed,
gets no second chance, and neither does a test that fails twice.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.plugins.run_log import EXIT_STATUS, FAILED, PATH

MAX_TESTS = 4
_TESTS_FAILED = "1"
"""pytest's exit status of a run that went to its end, and in which tests failed."""


class NoSecondChance(Exception):
    """The run before cannot be made good by running tests again."""


def failed_tests(lines: Sequence[str]) -> list[str]:
    """Return the ids of the tests that failed, in their order, from the lines of a run's log.

    Raises NoSecondChance for a run that was cut off, ended otherwise than by failed tests, or failed too many.
    """
    said = [line.partition(" ")[2] for line in lines]
    if not said or not said[-1].startswith(EXIT_STATUS):
        raise NoSecondChance("the run was cut off: its log has no exit status")
    if (status := said[-1].removeprefix(EXIT_STATUS)) != _TESTS_FAILED:
        raise NoSecondChance(f"the run ended with status {status}, not because tests failed")
    failed = list(dict.fromkeys(one.removeprefix(FAILED) for one in said if one.startswith(FAILED)))
    if not failed:
        raise NoSecondChance("the run failed without a test that did")
    if len(failed) > MAX_TESTS:
        raise NoSecondChance(f"{len(failed)} tests failed, more than {MAX_TESTS}")
    return failed


def main() -> int:
    try:
        failed = failed_tests(PATH.read_text().splitlines())
    except (OSError, NoSecondChance) as error:
        print(f"test-again: no second run: {error}", file=sys.stderr)
        return 1
    PATH.rename(PATH.with_name("run-before.log"))
    print(f"test-again: {len(failed)} that failed, in one process:", *failed, sep="\n  ", flush=True)
    pytest = Path(sys.executable).with_name("pytest")
    if code := subprocess.run([str(pytest), *failed], check=False).returncode:
        return code
    print("FLAKY: failed among all tests, passed alone; each is a bug to mend:", *failed, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
