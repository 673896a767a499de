"""`kube-cache prefetch`: the verbs and their arguments. `cli.prefetch_run` does the work.

`kube-cache prefetch s3://…` is `kube-cache prefetch start s3://…`: no verb contains a colon.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from cli.arguments import AsJson, mib_per_s


class _StartIsMeant(TyperGroup):
    """Takes arguments without a verb for those of `start`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any("://" in arg for arg in args) and args[0] not in self.commands:
            args = ["start", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_StartIsMeant,
    no_args_is_help=True,
    short_help="Have data on nodes before a Pod asks for it.",
    help=(
        "Keep datasets on nodes before a Pod asks for them, behind every Pod that waits. A prefetch lives in Temporal"
        " until it expires or is cancelled, and looks after nodes that join and disks that are wiped.\n\n"
        "`kube-cache prefetch s3://…` is short for `kube-cache prefetch start s3://…`.\n\n"
        "Exit codes: 0 done (with --wait: the data is there); 1 it has ended, or time is up; 2 wrong usage; 3 refused"
        " (credentials, allowed datasets); 5 no such prefetch, or nothing at the URI; 6 Temporal or the operator does"
        " not answer; 7 nodes have no room for it, or the budget is used up; 130 Ctrl-C, which ends the wait and not"
        " the prefetch."
    ),
)

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|KiB|MiB|GiB|TiB|PiB)?")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(text: str) -> int:
    """Parse a size like `500GiB`, or a number of bytes; typer hands over the default, a number, too."""
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size; write it like 500GiB")
    return int(float(found[1]) * 1024 ** _UNITS.index(found[2] or "B"))


_Uris = Annotated[list[str], typer.Argument(metavar="URI...", help="The datasets, like s3://models/gpt-4.")]
_Prefetch = Annotated[
    str, typer.Argument(metavar="[NAMESPACE/]NAME", help="The prefetch, as `list` shows it.", show_default=False)
]
_NAMESPACE: Final = "Namespace whose Pods must be allowed the datasets."


@app.command()
def start(
    uris: _Uris,
    name: Annotated[
        str, typer.Option(help="Name of the prefetch; without it one that follows from the arguments.")
    ] = "",
    namespace: Annotated[str, typer.Option("-n", "--namespace", help=_NAMESPACE)] = "default",
    nodes: Annotated[str, typer.Option(metavar="A,B", help="Only these nodes.", show_default=False)] = "",
    selector: Annotated[
        str, typer.Option("-l", "--selector", metavar="KEY=VALUE", help="Only nodes with these labels; with commas.")
    ] = "",
    copies: Annotated[int, typer.Option(min=0, help="On so many of the nodes that match; 0 = on all.")] = 0,
    expires: Annotated[str, typer.Option(help="How long it lives; then its data is evicted first.")] = "24h",
    max_bytes: Annotated[
        int, typer.Option(parser=size, metavar="SIZE", help="Fetch no more in all, like 500GiB.", show_default=False)
    ] = 0,
    bandwidth: Annotated[
        float,
        typer.Option(parser=mib_per_s, metavar="MIB", help="MiB per second of all nodes together.", show_default=False),
    ] = 0.0,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Nodes that fetch at once.")] = 8,
    schedule: Annotated[
        str,
        typer.Option(metavar="CRON", help="Begin at each of these times, like '0 8 * * 1-5'.", show_default=False),
    ] = "",
    time_zone: Annotated[str, typer.Option(help="With --schedule: the zone that its times are in.")] = "UTC",
    window: Annotated[
        str, typer.Option(help="With --schedule: how long each one lives, like 10h.", show_default=False)
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Look for new contents every 5 minutes.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the data is there, and tell how far it is.")] = False,
    timeout: Annotated[
        str, typer.Option(help="With --wait: give up waiting after this time.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Start a prefetch, or give the one of this name these arguments from now on; with --schedule, again and again."""
    from cli import prefetch_run, prefetch_schedule  # noqa: PLC0415 -- Temporal takes a second to import

    spec = prefetch_run.specify(
        uris,
        name=name,
        namespace=namespace,
        nodes=nodes,
        selector=selector,
        copies=copies,
        expires=expires,
        max_bytes=max_bytes,
        max_bytes_per_s=int(bandwidth),
        parallel=parallel,
        follow=follow,
    )
    if schedule or window:
        when = prefetch_schedule.specify(schedule, time_zone=time_zone, window=window, wait=wait)
        return prefetch_schedule.start(spec, when, as_json=as_json)
    return prefetch_run.start(spec, wait=wait, timeout=timeout, as_json=as_json)


@app.command("list")
def list_(
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Only this namespace.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows; the others are counted.")] = 100,
    as_json: AsJson = False,
) -> int:
    """List the prefetches that live, or have a schedule: phase, percent, nodes, bytes."""
    from cli import prefetch_run  # noqa: PLC0415

    return prefetch_run.list_all(namespace=namespace, limit=limit, as_json=as_json)


@app.command()
def status(prefetch: _Prefetch, as_json: AsJson = False) -> int:
    """Tell how far a prefetch is, and what holds it up; of one that has ended, how."""
    from cli import prefetch_run  # noqa: PLC0415

    return prefetch_run.show(prefetch, as_json=as_json)


def _ask(verb: str, prefetch: str, *, as_json: bool) -> int:
    from cli import prefetch_run  # noqa: PLC0415

    return prefetch_run.ask_for(verb, prefetch, as_json=as_json)


@app.command()
def pause(prefetch: _Prefetch, as_json: AsJson = False) -> int:
    """Stop a prefetch's downloads and its schedule, and keep what was fetched, until a resume."""
    return _ask("pause", prefetch, as_json=as_json)


@app.command()
def resume(prefetch: _Prefetch, as_json: AsJson = False) -> int:
    """Go on with a prefetch that was paused; try again now what failed."""
    return _ask("resume", prefetch, as_json=as_json)


@app.command()
def cancel(prefetch: _Prefetch, as_json: AsJson = False) -> int:
    """End a prefetch, and its schedule: what it brought is evicted first, unless a Pod has used it."""
    return _ask("cancel", prefetch, as_json=as_json)
