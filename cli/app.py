"""The subcommands of `kube-cache`, their arguments and their help. What a subcommand does is imported when it runs.

A command returns its exit code. `kubectl kube-cache …` is the same program under the name that kubectl looks for.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import prefetch, store
from cli.arguments import AsJson, Connections, MaxRate, Uri
from cli.processes import PROCESSES
from kube_cache.errors import InvalidRequest

_PLUGIN: Final = "kubectl-kube_cache"
_USAGE: Final = 2
"""Exit code for arguments that mean nothing."""

app = typer.Typer(
    help="Just-in-time data pre-warmer for Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(arguments: list[str]) -> int:
    """Parse the arguments and run what they name. Return the exit code."""
    is_plugin = Path(sys.argv[0]).name == _PLUGIN
    try:
        code = app(arguments, prog_name="kubectl kube-cache" if is_plugin else "kube-cache", standalone_mode=False)
    except typer.TyperException as error:
        _show(error)
        return error.exit_code
    except InvalidRequest as error:
        print(f"kube-cache: {error.message}", file=sys.stderr)
        return _USAGE
    return code if isinstance(code, int) else 0


def _show(error: typer.TyperException) -> None:
    """Print what is wrong with the arguments, in one line and one of usage."""
    if not error.format_message():  # the help was printed instead
        return
    if context := getattr(error, "ctx", None):
        print(context.get_usage(), file=sys.stderr)
    print(f"kube-cache: {error.format_message()}", file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kube-cache {version('kube-cache')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Processes")
def operator() -> int:
    """Run the watcher, the workflows and the cluster activities."""
    return PROCESSES["operator"]()


@app.command(rich_help_panel="Processes")
def agent() -> int:
    """Run one node's activities (needs KUBE_CACHE_AGENT__NODE and KUBE_CACHE_STORE__ROOT)."""
    return PROCESSES["agent"]()


_CLUSTER: Final = "The cluster"
_DISK: Final = "A node's disk, without a cluster"
_Pod = Annotated[str, typer.Argument(metavar="NAMESPACE/POD", help="The Pod.", show_default=False)]
_Limit = Annotated[int, typer.Option(min=1, help="Maximum number of rows; the others are counted.")]
_NodeFilter = Annotated[str, typer.Option("--node", help="Only this node.", show_default=False)]


@app.command(rich_help_panel=_CLUSTER)
def status(
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Only this namespace.", show_default=False)] = "",
    phase: Annotated[str, typer.Option(help="Only this phase, like Warming.", show_default=False)] = "",
    node: _NodeFilter = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the table up to date until Ctrl-C.")] = False,
    limit: _Limit = 100,
    as_json: AsJson = False,
) -> int:
    """List the Pods that wait for data, the oldest first: phase, node, progress, rate, remaining time."""
    from cli import status as command  # noqa: PLC0415 -- as below: rich, Kubernetes and Temporal take a second to import
    from kube_cache.insight.warms import Filter  # noqa: PLC0415

    return command.run(Filter(namespace, phase, node), limit=limit, watch=watch, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def why(pod: _Pod, as_json: AsJson = False) -> int:
    """Tell in one paragraph what a Pod waits for, the bottleneck, since when, and what to do."""
    from cli import why as command  # noqa: PLC0415

    return command.run(pod, as_json=as_json)


def _act(verb: str, pod: str, *, as_json: bool) -> int:
    from cli import pod_request  # noqa: PLC0415

    return pod_request.act(verb, pod, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def retry(pod: _Pod, as_json: AsJson = False) -> int:
    """Have a Pod that waits for a person, a disk or a group tried again now."""
    return _act("retry", pod, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def cancel(pod: _Pod, as_json: AsJson = False) -> int:
    """Stop a Pod's warm-up; the Pod stays gated until a retry."""
    return _act("cancel", pod, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def pause(pod: _Pod, as_json: AsJson = False) -> int:
    """Stop a Pod's warm-up, and keep what was fetched, until a resume."""
    return _act("pause", pod, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def resume(pod: _Pod, as_json: AsJson = False) -> int:
    """Go on with a Pod that was paused."""
    return _act("resume", pod, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER, context_settings={"ignore_unknown_options": True})
def priority(
    pod: _Pod,
    value: Annotated[str, typer.Argument(metavar="PRIORITY", help="-100 to 100.", show_default=False)],
    as_json: AsJson = False,
) -> int:
    """Set whose data is fetched first: the Pod's priority, of which the higher goes first."""
    from cli import pod_request  # noqa: PLC0415

    return pod_request.set_priority(pod, value, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def inventory(
    node: _NodeFilter = "",
    dataset: Annotated[str, typer.Option(help="Only this URI.", show_default=False)] = "",
    limit: _Limit = 100,
    as_json: AsJson = False,
) -> int:
    """List which nodes hold which data: a row for each dataset, or for each snapshot on one node."""
    from cli import inventory as command  # noqa: PLC0415

    return command.run(node=node, dataset=dataset, limit=limit, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def register() -> int:
    """Register the search attributes of Kube-Cache in a Temporal namespace, before operators run."""
    from cli import register as command  # noqa: PLC0415

    return command.run()


@app.command(rich_help_panel=_CLUSTER)
def savings(
    over: Annotated[str, typer.Option(help="How far to look back, like 24h or 7d.")] = "24h",
    dollars: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Price of a GPU for an hour; without it KUBE_CACHE_OPERATOR__GPU_DOLLARS_PER_HOUR.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of workflows read, the newest first.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """Add up the GPU time that Pods did not hold while their data was fetched, and what it comes to."""
    from cli import savings as command  # noqa: PLC0415
    from cli.environment import read_settings  # noqa: PLC0415

    price = read_settings().operator.gpu_dollars_per_hour if dollars is None else dollars
    return command.run(over=over, limit=limit, dollars_per_hour=price, as_json=as_json)


@app.command(rich_help_panel=_CLUSTER)
def forecast(
    dataset: Annotated[str, typer.Argument(metavar="[URI]", help="Only this dataset, with its curve.")] = "",
    limit: _Limit = 100,
    svg: Annotated[str, typer.Option(metavar="FILE", help="Also draw the curves into this file.")] = "",
    as_json: AsJson = False,
) -> int:
    """Show what the last run expects and plans, whether it acts and why not, and what its plans were worth."""
    from cli import forecast as command  # noqa: PLC0415

    return command.run(dataset, limit=limit, svg=svg, as_json=as_json)


@app.command(rich_help_panel=_DISK)
def fetch(
    uri: Uri,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where its files go.", show_default=False)],
    max_rate: MaxRate = 0.0,
    connections: Connections = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Also read files that are there against checksums.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fetch a dataset into a plain directory, without a cluster: resumed if typed again, every byte verified.

    Exit codes: 0 done and verified; 1 the disk failed; 2 wrong usage; 3 refused (credentials, allow-list, a directory
    of another dataset or in use); 4 wrong bytes; 5 nothing is there; 6 the origin does not answer (a repeat resumes);
    7 no room; 130 Ctrl-C, 143 SIGTERM (a repeat resumes).
    """
    from cli import fetch as command  # noqa: PLC0415
    from cli import transfer  # noqa: PLC0415
    from cli.environment import read_settings  # noqa: PLC0415

    options = transfer.Options(uri=uri, max_bytes_per_s=max_rate, connections=connections, as_json=as_json)
    return command.run(options, read_settings(), directory, reread=verify)


app.add_typer(prefetch.app, name="prefetch", rich_help_panel=_CLUSTER)
app.add_typer(store.app, name="store", rich_help_panel=_DISK)
