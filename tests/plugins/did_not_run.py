"""Tells, as the last words of a run, which tests did not run, why, and what makes them run.

A test whose server is not built by default (`default=False` in tools/servers/pins.py) says
`@pytest.mark.needs_server("name")`: it runs wherever that server is built, and is listed here where it is not. The same
list holds every other skip, so that none is silent.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from tools.servers import build, cache
from tools.servers.errors import UnknownServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose servers are not built; nothing is built for them, because that takes minutes."""
    for item in items:
        names = [name for marker in item.iter_markers("needs_server") for name in marker.args]
        try:
            missing = [pin.name for pin in build.pins(names) if cache.locate(pin) is None]
        except UnknownServer as error:
            raise pytest.UsageError(f"needs_server of {item.nodeid}: {error}") from error
        if missing:
            item.add_marker(pytest.mark.skip(reason=_remedy(missing)))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    files_by_reason: dict[str, list[str]] = defaultdict(list)
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        files_by_reason[reason.removeprefix("Skipped: ")].append(report.nodeid.partition("::")[0])
    for reason, files in files_by_reason.items():
        places = ", ".join(f"{files.count(file)} of {file}" for file in sorted(set(files)))
        terminal.write_line(f"DID NOT RUN: {places}: {reason}", yellow=True, bold=True)


def _remedy(missing: list[str]) -> str:
    names = " ".join(missing)
    seconds = sum(pin.build_s for pin in build.pins(missing))
    return f"{names} not built; `make servers SERVERS='{names}'` (some {seconds} s), then the test runs"
