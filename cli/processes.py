"""The subcommands that are processes of the product. Each is imported when it runs, and takes no arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


def _run_operator() -> int:
    from cli import operator  # noqa: PLC0415 -- see above
    from cli.environment import read_settings  # noqa: PLC0415

    return operator.run(read_settings())


def _run_agent() -> int:
    from cli import agent  # noqa: PLC0415 -- see above
    from cli.environment import read_settings  # noqa: PLC0415

    return agent.run(read_settings())


PROCESSES: Final[dict[str, Callable[[], int]]] = {"operator": _run_operator, "agent": _run_agent}
