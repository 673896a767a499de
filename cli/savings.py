"""`kube-cache savings`: GPU time that Pods did not hold while their data was fetched, and what it comes to."""

from __future__ import annotations

import time

from cli.cluster import ask, complain_of_sources, print_json
from kube_cache.contracts.node import ExitCode
from kube_cache.insight.savings import COUNTERFACTUAL, Savings, add_up
from kube_cache.insight.sources import Sources
from kube_cache.units import format_bytes, format_seconds, parse_duration


def run(*, over: str, limit: int, dollars_per_hour: float, as_json: bool) -> int:
    """Print the sums. over: a duration up to now. Raises InvalidRequest. Return the exit code."""
    seconds = parse_duration(over, name="--over")
    return ask(
        lambda sources: _run(
            sources, seconds, limit=limit, dollars_per_hour=dollars_per_hour, as_json=as_json, over=over
        ),
        kubernetes=False,
    )


async def _run(
    sources: Sources, seconds: float, *, limit: int, dollars_per_hour: float, as_json: bool, over: str
) -> int:
    since = time.time() - seconds
    savings = await sources.ask_temporal(lambda client: add_up(client, since=since, limit=limit))
    if savings is None:
        return complain_of_sources(sources)
    if as_json:
        print_json(document(savings, since, dollars_per_hour))
    else:
        print(words(savings, over, dollars_per_hour))
    return ExitCode.DONE


def words(savings: Savings, over: str, dollars_per_hour: float) -> str:
    dollars = savings.gpu_seconds / 3600 * dollars_per_hour
    fetched = f"{format_bytes(savings.fetched_bytes)} were fetched while a Pod waited"
    if savings.neighbour_bytes:
        fetched += f": {format_bytes(savings.neighbour_bytes)} from neighbours, the rest from the origin"
    lines = [
        f"Over the last {over}: {savings.releases} Pods released, {savings.hits} of them found all their data on the node.",
        f"Data: {format_bytes(savings.bytes)}, of which {fetched}.",
        f"GPU time not held: {format_seconds(savings.gpu_seconds)}, ${dollars:,.2f} at ${dollars_per_hour:g} an hour.",
        COUNTERFACTUAL,
    ]
    if savings.neighbour_bytes:
        lines.append("What neighbours sent counts at the speed that they sent it; the origin alone has another one.")
    if savings.total > savings.read:
        lines.append(
            f"{savings.total - savings.read} of {savings.total} workflows are left out, the older ones or such as ended"
            " without a result (--limit)."
        )
    return "\n".join(lines)


def document(savings: Savings, since: float, dollars_per_hour: float) -> dict[str, object]:
    """Compose what `--json` prints; docs/operate/cli.md explains the keys."""
    return {
        "since": since,
        "releases": savings.releases,
        "hits": savings.hits,
        "bytes": savings.bytes,
        "fetched_bytes": savings.fetched_bytes,
        "neighbour_bytes": savings.neighbour_bytes,
        "gpu_seconds_not_held": savings.gpu_seconds,
        "dollars_per_gpu_hour": dollars_per_hour,
        "dollars": savings.gpu_seconds / 3600 * dollars_per_hour,
        "counterfactual": COUNTERFACTUAL,
        "workflows_read": savings.read,
        "workflows_total": savings.total,
    }
