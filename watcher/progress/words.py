"""The sentence that a Pod shows while its data is fetched. A pure function."""

from __future__ import annotations

from collections.abc import Sequence

from kube_cache.contracts.common import Warming
from kube_cache.temporal.downloads import AWAY, DONE, PAUSED, QUEUED, Download, words_of_neighbours
from kube_cache.units import format_bytes, format_seconds

# Seconds without a byte after which the Pod says so. The engine gives a hanging connection up after 5 s, so a healthy
# download is never still for longer.
_STILL_S = 8.0


def percent_of(warming: Warming, done: int) -> float:
    return 100 * done / warming.total_bytes if warming.total_bytes else 0.0


def progress(warming: Warming, downloads: Sequence[Download], done: int, still_s: float) -> str:
    """done: bytes of all the Pod's datasets on the disk; still_s: seconds since the last byte."""
    rate = sum(download.bytes_per_s for download in downloads)
    left = warming.total_bytes - done
    parts = [f"{percent_of(warming, done):.0f} % of {format_bytes(warming.total_bytes)} on node {warming.node}"]
    states = {download.state for download in downloads} - {DONE}
    if AWAY in states:
        parts.append("waiting for the node's agent to answer; if it stays away, another node is taken")
    elif states == {PAUSED}:
        parts.append("the download is paused; signal `resume` to its workflow (DatasetOnNode) and it goes on")
    elif states == {QUEUED}:
        parts.append("queued on the node")
    elif still_s >= _STILL_S and left > 0:
        parts.append(f"nothing came for {format_seconds(still_s)}: SourceUnavailable, or the node's disk is slow")
    elif rate > 0:
        parts.append(f"{format_bytes(rate)}/s, done in {format_seconds(left / rate)}")
    if fed := words_of_neighbours(downloads, done - warming.present_bytes):
        parts.append(f"{fed} so far")
    parts += [
        f"attempt {download.attempt}, last failure: {download.failure}" for download in downloads if download.failure
    ]
    return "; ".join(parts)
