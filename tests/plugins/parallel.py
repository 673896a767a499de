"""Divides a run between processes (`pytest -n 2`, which `make test` does): the stack's tests | everything else.

All of tests/e2e is one piece of work, because each process that runs a test of it starts a stack of its own, some
fifteen servers; so is tests/node, for its real node. The rest is handed out file by file, so that the process which is
done first helps the other. Files that need servers go first: the last files of a run should not start any.
"""

from __future__ import annotations

from typing import Any

import pytest

E2E = "tests/e2e"
_WHOLE = (E2E, "tests/node")


def piece_of(nodeid: str) -> str:
    """Return the name of the piece of work that a test belongs to: its file, or a folder that shares its servers."""
    for folder in _WHOLE:
        if nodeid.startswith(f"{folder}/"):
            return folder
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the pieces: the stack's tests, files that need servers, the rest."""
    if not hasattr(config, "workerinput"):
        return  # one process runs quick tests as they come
    with_servers = {piece_of(item.nodeid) for item in items if item.get_closest_marker("stack")}
    items.sort(key=lambda item: (piece_of(item.nodeid) != E2E, piece_of(item.nodeid) not in with_servers))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Pieces(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return piece_of(nodeid)

    config.option.loadscopereorder = False  # the order of collection counts
    return Pieces(config, log)
