"""What holds a Pod up, as one word, and which of them it is for a download. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from kube_cache.temporal.downloads import AWAY, DONE, PAUSED, QUEUED, Download
from kube_cache.units import format_bytes


class Bottleneck(StrEnum):
    NONE = "none"
    """Nothing waits, or the step takes moments."""
    NETWORK = "network"
    """The origin, or the way to it, gives no more."""
    DECRYPT = "decrypt"
    """The node's CPUs, which decrypt TLS."""
    DISK = "disk"
    """The node's disk: too slow, too full, or failing."""
    VERIFY = "verify"
    """The node's CPUs, which compute checksums."""
    THROTTLING = "throttling"
    """The origin refuses requests because there are too many."""
    QUEUE = "queue"
    """Other downloads of the node go first."""
    SEAT = "seat"
    """No node has room for the Pod."""
    GATE = "foreign gate"
    GROUP = "group"
    """Other Pods of the group are not as far."""
    AGENT = "agent"
    """The node's agent does not answer."""
    OPERATOR = "operator"
    """Nobody looks after the Pod."""
    SCHEDULER = "scheduler"
    """The Pod is released, and the scheduler does not bind it."""
    PERSON = "person"
    """Nothing goes on until somebody acts."""
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    bottleneck: Bottleneck
    why: str
    """A sentence without its stop; empty where the word says all."""
    remedy: str = ""


_OF_STAGE: Final = {
    "wait": Bottleneck.THROTTLING,
    "first_byte": Bottleneck.NETWORK,
    "network": Bottleneck.NETWORK,
    "decrypt": Bottleneck.DECRYPT,
    "verify": Bottleneck.VERIFY,
    "write": Bottleneck.DISK,
}
_DOING: Final = {
    Bottleneck.NETWORK: "waiting for bytes of the origin",
    Bottleneck.DECRYPT: "decrypting TLS",
    Bottleneck.VERIFY: "computing checksums",
    Bottleneck.DISK: "writing to the node's disk",
    Bottleneck.THROTTLING: "pausing between requests",
}
_DOING_IF_FED: Final = {**_DOING, Bottleneck.NETWORK: "waiting for bytes of the origin and of neighbours"}
_REMEDY: Final = {
    Bottleneck.NETWORK: "More speed takes a faster way to the origin, or an origin nearer to the node",
    Bottleneck.DECRYPT: "Give the agent more CPUs, or take an origin without TLS inside the same network",
    Bottleneck.VERIFY: "Give the agent more CPUs",
    Bottleneck.DISK: "Look at what else writes to the disk (kube_cache_disk_* and iostat on the node)",
    Bottleneck.THROTTLING: "Ask the origin's owner for a higher request rate, or spread the dataset over more prefixes",
}
_DISK_ERRORS: Final = ("DiskFault", "PersistentDiskFault", "InsufficientDisk", "NoRoomYet", "StoreConflict")
_PERSON_ERRORS: Final = ("AccessDenied", "BucketNotAllowed", "DatasetNotAllowed", "DatasetNotFound", "InvalidRequest")
_ORIGIN_REMEDY: Final = "It is tried again by itself; look whether the origin can be reached from the node"


def of_downloads(downloads: Sequence[Download]) -> Finding:
    """Name the bottleneck of what a Pod waits for. downloads: of its snapshots that are fetched."""
    running = [download for download in downloads if download.state != DONE]
    if downloads and not running:
        return Finding(Bottleneck.NONE, "All of it is on the node, and the release follows")
    if not running:
        return Finding(Bottleneck.UNKNOWN, "Temporal knows of no download for the Pod yet", "Look again in a moment")
    states = {download.state for download in running}
    if AWAY in states:
        return Finding(
            Bottleneck.AGENT,
            "the node's agent does not answer",
            "The Pod goes to another node if it stays away; look at the agents' DaemonSet there",
        )
    if states == {PAUSED}:
        return Finding(
            Bottleneck.PERSON, "the download itself is paused", "Signal `resume` to its workflow (DatasetOnNode)"
        )
    failing = next((each for each in running if each.failure and not each.bytes_per_s), None)
    if failing is not None:
        return of_failure(failing.failure, failing.attempt)
    if states <= {QUEUED, PAUSED}:
        return Finding(
            Bottleneck.QUEUE,
            "other downloads of the node go first",
            "A higher priority goes first (`kube-cache priority`); KUBE_CACHE_AGENT__CONCURRENT_DOWNLOADS says how many"
            " run at once",
        )
    if "fetching" not in states:
        return Finding(Bottleneck.NETWORK, "the agent lists the dataset", "")
    return _of_shares(running)


def of_failure(failure: str, attempt: int) -> Finding:
    """Name the bottleneck of a call that fails again and again. failure: `Type: message`."""
    kind, said = (
        failure.partition(":")[0],
        f"attempt {attempt} runs or is due, the last one failed: {failure.rstrip('.')}",
    )
    if kind in _DISK_ERRORS:
        return Finding(Bottleneck.DISK, said, "It is tried again by itself; after some attempts the Pod goes elsewhere")
    if kind in _PERSON_ERRORS:
        return Finding(Bottleneck.PERSON, said, "Mend what the message names, then `kube-cache retry`")
    if kind == "WorkerDraining":
        return Finding(Bottleneck.AGENT, "the node's agent restarts; what was fetched is kept", "Nothing to do")
    if any(word in failure for word in ("SlowDown", "hrottl", "429")):
        return Finding(Bottleneck.THROTTLING, said, _REMEDY[Bottleneck.THROTTLING])
    return Finding(Bottleneck.NETWORK, said, _ORIGIN_REMEDY)


def _of_shares(running: Sequence[Download]) -> Finding:
    """Judge by what the node's connections spend their time with. All downloads of a node report the same."""
    shares: Mapping[str, float] = max((each.shares for each in running), key=len)
    retries = {cause: count for each in running for cause, count in each.retries.items()}
    rate = sum(each.bytes_per_s for each in running)
    if not shares:
        if not rate:
            return Finding(Bottleneck.NETWORK, "nothing comes from the origin", _ORIGIN_REMEDY)
        return Finding(
            Bottleneck.UNKNOWN, "the agent has measured no whole range of bytes yet", "Look again in a moment"
        )
    by_bottleneck: dict[Bottleneck, float] = {}
    for stage, share in shares.items():
        bottleneck = _OF_STAGE.get(stage, Bottleneck.UNKNOWN)
        by_bottleneck[bottleneck] = by_bottleneck.get(bottleneck, 0) + share
    worst = max(by_bottleneck, key=lambda bottleneck: by_bottleneck[bottleneck])
    doing = _DOING_IF_FED if any(each.neighbour_bytes for each in running) else _DOING
    why = f"{by_bottleneck[worst]:.0%} of the connections' time goes into {doing.get(worst, 'something new')}"
    others = {cause: count for cause, count in retries.items() if cause != "throttled"}
    if worst == Bottleneck.THROTTLING and others and not retries.get("throttled"):
        return Finding(Bottleneck.NETWORK, f"{why}, because requests failed ({_count(others)})", _ORIGIN_REMEDY)
    if retries:
        why += f"; requested again of late: {_count(retries)}"
    return Finding(worst, f"{why}, at {format_bytes(rate)}/s", _REMEDY.get(worst, ""))


def _count(retries: Mapping[str, int]) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in sorted(retries.items()))
