"""The top-level packages have generic names: they must be this project's, not somebody else's of the same name."""

from __future__ import annotations

import activities
import cli
import watcher
import workflows


def test_the_generic_package_names_are_ours() -> None:
    for package in (cli, watcher, workflows, activities):
        assert __file__.rsplit("/tests/", 1)[0] in str(package.__file__)
