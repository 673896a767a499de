"""Compares each promise with what really happened: disks, the API server's audit log, bytes counted on the wire.

A check never trusts the product's own word: it compares that with another source. Each check says what it compared, so
that a green line can be believed and a red one followed up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.warm_pod import WarmPodResult
from kube_cache.units import format_bytes
from tools.demo.plan import BUCKET, Dataset, Role
from tools.stack import pods
from tools.stack.api import Document
from tools.stack.audit import Write

_MAY_CHANGE = ("schedulingGates", "affinity", "nodeName")
"""Fields of a Pod's spec: the release removes the gate and adds the affinity, the scheduler sets the node."""


@dataclass(frozen=True)
class Check:
    promise: str
    passed: bool
    compared: str


@dataclass(frozen=True)
class Actor:
    """A Pod of the demo at its end."""

    role: Role
    created: Document
    """The API server's answer to its creation."""
    final: Document
    result: WarmPodResult | None = None
    """The result of its workflow; None if the workflow has not ended."""

    @property
    def name(self) -> str:
        return self.role.name

    @property
    def node(self) -> str:
        return pods.node(self.final)


def hashes(folder: Path) -> dict[str, str]:
    """Return relative path → SHA-256 of every file under a folder; {} when there is no folder."""
    hash_by_path = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                hash_by_path[str(path.relative_to(folder))] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hash_by_path


def current(root: Path, dataset: Dataset) -> Path:
    """Return the folder that a Pod mounts. root: of the cache on its node."""
    return root / "datasets" / "s3" / BUCKET / dataset.prefix / "@current"


def bound_where_the_data_is(actor: Actor, on_disk: Mapping[str, str], source: Mapping[str, str]) -> Check:
    """Check the bytes on the Pod's node. on_disk: hashes of the files that the Pod mounts. source: of the uploads."""
    dataset = actor.role.dataset
    assert dataset is not None
    promise = "released means readable"
    if not actor.node:
        condition = pods.condition(actor.final)
        words = f"{condition.get('reason')}: {condition.get('message')}"
        return Check(promise, False, f"{actor.name} is not bound; it says {words}")
    folder = f"{actor.node}:…/{'/'.join(current(Path(), dataset).parts)}"
    wrong = sorted(name for name in source.keys() | on_disk.keys() if source.get(name) != on_disk.get(name))
    if wrong:
        return Check(promise, False, f"{actor.name}: {folder} differs from the source in {', '.join(wrong)}")
    size = f"{len(source)} files, {format_bytes(dataset.bytes)}"
    return Check(promise, True, f"{actor.name}: {folder} holds {size}, SHA-256 of each as uploaded")


def receipt_is_true(actor: Actor) -> Check:
    annotations = actor.final["metadata"].get("annotations", {})
    node_by_source = {
        "spec.nodeName": actor.node,
        "receipt": annotations.get(names.NODE_ANNOTATION, ""),
        "workflow's result": actor.result.node if actor.result else "",
    }
    same = len(set(node_by_source.values())) == 1 and bool(actor.node)
    compared = ", ".join(f"{source} {node!r}" for source, node in node_by_source.items())
    return Check("one truth", same, f"{actor.name}: {compared}")


def spec_untouched(actor: Actor) -> Check:
    before, after = (
        {field: value for field, value in document["spec"].items() if field not in _MAY_CHANGE}
        for document in (actor.created, actor.final)
    )
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    compared = f"{actor.name}: spec as created in all {len(before)} fields but gate, affinity, node"
    return Check("yours stays yours", not changed, compared if not changed else f"{actor.name}: {changed} changed")


def released_once(actor: Actor, releases: list[Write], operator: str) -> Check:
    users = [write.user for write in releases]
    compared = f"{actor.name}: {_count(len(users), 'patch', 'patches')} took the gate off, by {', '.join(users) or 'nobody'} (audit log)"
    return Check("released once", users == [operator], compared)


def held_with_reason(actor: Actor, events: list[Document]) -> Check:
    """Check that the Pod is gated, that its condition names error and dataset, and that an Event has the reason."""
    condition = pods.condition(actor.final)
    words = str(condition.get("message", ""))
    matching = [event for event in events if event.get("reason") == actor.role.error]
    passed = (
        names.GATE in pods.gates(actor.final)
        and not actor.node
        and condition.get("reason") == Phase.AWAITING_OPERATOR
        and words.startswith(f"{actor.role.error}:")
        and actor.role.annotation in words
        and bool(matching)
    )
    gate = "gated" if names.GATE in pods.gates(actor.final) else "NOT gated"
    sentence = words.partition("\n")[0] or "nothing"
    return Check(
        "you can see why",
        passed,
        f"{actor.name}: {gate}, {_count(len(matching), 'Event', 'Events')}, condition says {sentence!r}",
    )


def one_copy_a_node(dataset: Dataset, nodes: set[str], served: int) -> Check:
    expected = dataset.bytes * len(nodes)
    compared = (
        f"{dataset.uri}: S3 served {served:,} bytes = {served / dataset.bytes:.3f} copies"
        f" for {_count(len(nodes), 'node', 'nodes')} ({', '.join(sorted(nodes))})"
    )
    return Check("one download", served == expected, compared)


def late_was_a_hit(actor: Actor, served_meanwhile: int, *, had_it: bool) -> Check:
    """Check that the late Pod met its data. had_it: its node held the data before the Pod was created."""
    hit = actor.result is not None and actor.result.hit and actor.result.fetched_bytes == 0
    seconds = f" {actor.result.seconds:.2f} s after it was seen" if actor.result else ""
    compared = f"{actor.name}: on {actor.node or 'no node'}{seconds}, S3 served {served_meanwhile} bytes meanwhile"
    return Check("warm stays warm", hit and had_it and served_meanwhile == 0, compared)


def nothing_left(seats: list[str], unfinished: list[str]) -> Check:
    """Check that nothing is left behind. unfinished: files in the nodes' incoming/ folders."""
    compared = f"{_count(len(seats), 'seat', 'seats')} left, {_count(len(unfinished), 'file', 'files')} in incoming/"
    return Check("no litter", not seats and not unfinished, compared)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
