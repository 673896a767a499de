"""Options that several subcommands share."""

from __future__ import annotations

import math
from typing import Annotated

import typer


def mib_per_s(text: str) -> float:
    """Parse MiB per second into bytes per second."""
    try:
        rate = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not 0 <= rate < math.inf:
        raise typer.BadParameter("a rate is not negative")
    return rate * (1 << 20)


AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Uri = Annotated[str, typer.Argument(metavar="URI", help="The dataset, like s3://models/gpt-4.", show_default=False)]
MaxRate = Annotated[
    float,
    typer.Option(
        parser=mib_per_s, metavar="MIB", help="Maximum MiB per second; without it the setting.", show_default=False
    ),
]
Connections = Annotated[
    int, typer.Option(min=0, max=1024, help="Maximum number of connections; 0 = the setting.", show_default=False)
]
