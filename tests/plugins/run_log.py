"""Writes each start and end of a test to build/test-logs/run.log, and the time of each folder at the end of a run.

A run that is cut off (CI has a limit) leaves no summary: the file tells which tests were under way, and how long those
before them took.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import IO

import pytest

from tests.logs import LOGS

PATH = LOGS / "run.log"
FAILED = "FAILED  "
EXIT_STATUS = "exit status "
"""Last line of a run that was not cut off."""


class RunLog:
    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._seconds: dict[str, float] = defaultdict(float)
        self.seconds_by_folder: dict[str, float] = defaultdict(float)
        self.tests_by_folder: Counter[str] = Counter()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(f"starts  {nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._write(f"{FAILED}{report.nodeid}")
        if report.when == "teardown":
            folder = report.nodeid.partition("::")[0].rpartition("/")[0]
            took = self._seconds.pop(report.nodeid)
            self.seconds_by_folder[folder] += took
            self.tests_by_folder[folder] += 1
            worker = getattr(report, "worker_id", "alone")
            self._write(f"ends    {report.nodeid}, {took:.1f} s, {worker}")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(f"{EXIT_STATUS}{int(exitstatus)}")

    def _write(self, what: str) -> None:
        self._file.write(f"{time.strftime('%H:%M:%S')} {what}\n")
        self._file.flush()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds by folder, with the starts of servers")
        for folder, seconds in sorted(self.seconds_by_folder.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{seconds:6.0f} s  {folder} ({self.tests_by_folder[folder]})")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or config.option.collectonly:
        return  # the process that hands out the work hears of every test
    LOGS.mkdir(parents=True, exist_ok=True)
    PATH.unlink(missing_ok=True)  # another run may be writing to it still
    file = PATH.open("w")
    config.add_cleanup(file.close)
    config.pluginmanager.register(RunLog(file), "run-log")
