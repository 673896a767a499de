"""`kube-cache store`: the verbs and their arguments. `cli.store_run` does the work."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.arguments import AsJson, Connections, MaxRate, Uri, mib_per_s

app = typer.Typer(
    no_args_is_help=True,
    short_help="Inspect and maintain a node's cache.",
    help=(
        "A node's cache for people at a shell. Tables by default, --json for scripts.\n\n"
        "On the node it may run beside the agent, since every change of the store takes the same locks. With --node it"
        " runs anywhere where Temporal can be reached, and the node's agent does the work.\n\n"
        "Exit codes: 0 done (for verify and scrub: and everything is sound); 1 the disk or the store failed, and the"
        " message says why; 2 wrong usage; 3 refused, because a Pod or a pin holds the snapshot (evict); 4 damage was"
        " found (verify, scrub); 5 no such snapshot; 6 the node, the operator or Temporal does not answer (--node);"
        " 130 Ctrl-C."
    ),
)

_Node = Annotated[
    str, typer.Option("--node", metavar="NODE", help="Ask this node's agent, through Temporal (TEMPORAL_ADDRESS).")
]
_DIGEST = "The snapshot's digest, its beginning, or the dataset's URI where it has one snapshot"
_Digest = Annotated[str, typer.Argument(help=f"{_DIGEST}.", show_default=False)]
_Owner = Annotated[str, typer.Option(help="Owner of the pin.")]


def _run(verb: str, node: str, *, as_json: bool, **arguments: Any) -> int:
    from cli import store_run  # noqa: PLC0415 -- the store takes longer to import than a table of arguments to print
    from cli.environment import read_settings  # noqa: PLC0415
    from kube_cache.contracts.node import StoreRequest  # noqa: PLC0415

    return store_run.run(StoreRequest(node, verb, **arguments), read_settings(), as_json=as_json)


@app.command()
def ls(as_json: AsJson = False, node: _Node = "") -> int:
    """List snapshots in the order in which they would be evicted."""
    return _run("ls", node, as_json=as_json)


@app.command()
def du(as_json: AsJson = False, node: _Node = "") -> int:
    """Show the use of the disk, by snapshot and pin."""
    return _run("du", node, as_json=as_json)


@app.command()
def verify(
    digest: Annotated[str, typer.Argument(help=f"{_DIGEST}; without it every snapshot.", show_default=False)] = "",
    full: Annotated[bool, typer.Option("--full", help="Read every byte; quarantine damaged objects.")] = False,
    as_json: AsJson = False,
    node: _Node = "",
) -> int:
    """Check each file of a snapshot; with --full, read every byte against its checksum."""
    return _run("verify", node, as_json=as_json, digest=digest, full=full)


@app.command()
def pin(
    digest: _Digest,
    owner: _Owner = "user/cli",
    duration: Annotated[
        str, typer.Option("--for", help="How long, like 12h; without it until unpinned.", show_default=False)
    ] = "",
    as_json: AsJson = False,
    node: _Node = "",
) -> int:
    """Keep a snapshot until it is unpinned."""
    return _run("pin", node, as_json=as_json, digest=digest, owner=owner, duration=duration)


@app.command()
def unpin(digest: _Digest, owner: _Owner = "user/cli", as_json: AsJson = False, node: _Node = "") -> int:
    """Remove a pin."""
    return _run("unpin", node, as_json=as_json, digest=digest, owner=owner)


@app.command()
def evict(digest: _Digest, as_json: AsJson = False, node: _Node = "") -> int:
    """Remove a snapshot and the objects that only it links, unless it is pinned."""
    return _run("evict", node, as_json=as_json, digest=digest)


@app.command()
def scrub(
    rate: Annotated[
        float | None,
        typer.Option(
            parser=mib_per_s,
            metavar="MIB",
            help="MiB per second, 0 = no limit; without it the setting.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    node: _Node = "",
) -> int:
    """Read every byte against its checksum; quarantine damaged objects."""
    return _run("scrub", node, as_json=as_json, rate=rate)


@app.command()
def warm(uri: Uri, max_rate: MaxRate = 0.0, connections: Connections = 0, as_json: AsJson = False) -> int:
    """Bring a dataset into this node's store, without a cluster. Exit codes as of kube-cache fetch."""
    from cli import store_warm, transfer  # noqa: PLC0415
    from cli.environment import read_settings  # noqa: PLC0415

    options = transfer.Options(uri=uri, max_bytes_per_s=max_rate, connections=connections, as_json=as_json)
    return store_warm.run(options, read_settings())
