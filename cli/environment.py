"""What the subcommands read from the environment: the settings."""

from __future__ import annotations

import sys
from typing import Final

from pydantic import ValidationError
from pydantic_settings import SettingsError

from kube_cache.settings import Settings

_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""Types of pydantic's error for a name that no setting has."""


def read_settings() -> Settings:
    """Read the environment; a bad variable ends the process with exit code 2 and a line that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "KUBE_CACHE_" + "__".join(str(part).upper() for part in problem["loc"])
            # A value may be a secret under a misspelt name, and some of the origin's are secrets anyway.
            secret = problem["type"] in _UNKNOWN or problem["loc"][:1] == ("origin",)
            given = "" if secret else f" (given: {problem.get('input')!r})"
            print(f"kube-cache: {name}: {problem['msg']}{given}", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:  # a whole group that is no JSON; the message names it and not its value
        print(f"kube-cache: {error}", file=sys.stderr)
        sys.exit(2)
