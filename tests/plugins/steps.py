"""Prints, at the end of a run, the steps that tests measured: what took how long, and how large it was.

A test that sets up something large tells each step with `tell`. Output of a test that passes is not shown, and a
process of pytest-xdist has no terminal; so the lines go to build/test-logs/steps.log, and the process that hands out
the work prints the file.
"""

from __future__ import annotations

import pytest

from tests.logs import LOGS

_FILE = LOGS / "steps.log"


def tell(line: str) -> None:
    print(line)
    with _FILE.open("a") as file:
        file.write(f"{line}\n")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        LOGS.mkdir(parents=True, exist_ok=True)
        _FILE.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _FILE.exists():
        terminalreporter.section("steps")
        terminalreporter.write_line(_FILE.read_text().rstrip())
