"""The promises, each compared with what really happened: disks, the API server's audit log, bytes counted on the wire.

A check never asks the product whether it did well, except to hold its answer against something else. Each says what was
compared, so that a green line can be believed and a red one be followed up.
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
"""Of a Pod's spec: the gate goes, the pin comes, the scheduler binds."""


@dataclass(frozen=True)
class Check:
    promise: str
    passed: bool
    compared: str


@dataclass(frozen=True)
class Actor:
    """One Pod of the demo at its end."""

    role: Role
    created: Document
    """As the API server answered its creation."""
    final: Document
    result: WarmPodResult | None = None
    """Of its workflow, where that has ended."""

    @property
    def name(self) -> str:
        return self.role.name

    @property
    def node(self) -> str:
        return pods.node(self.final)


def hashes(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file under a folder; empty when it is not there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                found[str(path.relative_to(folder))] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def current(root: Path, dataset: Dataset) -> Path:
    """What a Pod on that node mounts."""
    return root / "datasets" / "s3" / BUCKET / dataset.prefix / "@current"


def bound_where_the_data_is(actor: Actor, on_disk: Mapping[str, str], source: Mapping[str, str]) -> Check:
    """on_disk: hashes of what the Pod would mount on the node that it is bound to."""
    dataset = actor.role.dataset
    assert dataset is not None
    promise = "released means readable"
    if not actor.node:
        said = pods.condition(actor.final)
        return Check(promise, False, f"{actor.name} is not bound; it says {said.get('reason')}: {said.get('message')}")
    where = f"{actor.node}:…/{'/'.join(current(Path(), dataset).parts)}"
    wrong = sorted(name for name in source.keys() | on_disk.keys() if source.get(name) != on_disk.get(name))
    if wrong:
        return Check(promise, False, f"{actor.name}: {where} differs from the source in {', '.join(wrong)}")
    size = f"{len(source)} files, {format_bytes(dataset.bytes)}"
    return Check(promise, True, f"{actor.name}: {where} holds {size}, SHA-256 of each as uploaded")


def receipt_is_true(actor: Actor) -> Check:
    annotations = actor.final["metadata"].get("annotations", {})
    said = {
        "spec.nodeName": actor.node,
        "receipt": annotations.get(names.NODE_ANNOTATION, ""),
        "workflow's result": actor.result.node if actor.result else "",
    }
    same = len(set(said.values())) == 1 and bool(actor.node)
    return Check("one truth", same, f"{actor.name}: " + ", ".join(f"{key} {value!r}" for key, value in said.items()))


def spec_untouched(actor: Actor) -> Check:
    documents = (actor.created, actor.final)
    before, after = ({k: v for k, v in each["spec"].items() if k not in _MAY_CHANGE} for each in documents)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    compared = f"{actor.name}: spec as created in all {len(before)} fields but gate, affinity, node"
    return Check("yours stays yours", not changed, compared if not changed else f"{actor.name}: {changed} changed")


def released_once(actor: Actor, releases: list[Write], operator: str) -> Check:
    who = [write.user for write in releases]
    compared = f"{actor.name}: {_count(len(who), 'patch', 'patches')} took the gate off, by {', '.join(who) or 'nobody'} (audit log)"
    return Check("released once", who == [operator], compared)


def held_with_reason(actor: Actor, events: list[Document]) -> Check:
    """Still gated, and both the condition and an Event name the error and what it is about."""
    said = pods.condition(actor.final)
    words = str(said.get("message", ""))
    noted = [event for event in events if event.get("reason") == actor.role.error]
    passed = (
        names.GATE in pods.gates(actor.final)
        and not actor.node
        and said.get("reason") == Phase.AWAITING_OPERATOR
        and words.startswith(f"{actor.role.error}:")
        and actor.role.written in words
        and bool(noted)
    )
    gate = "gated" if names.GATE in pods.gates(actor.final) else "NOT gated"
    sentence = words.partition("\n")[0] or "nothing"
    return Check(
        "you can see why",
        passed,
        f"{actor.name}: {gate}, {_count(len(noted), 'Event', 'Events')}, condition says {sentence!r}",
    )


def one_copy_a_node(dataset: Dataset, nodes: set[str], served: int) -> Check:
    wanted = dataset.bytes * len(nodes)
    compared = (
        f"{dataset.uri}: S3 served {served:,} bytes = {served / dataset.bytes:.3f} copies"
        f" for {_count(len(nodes), 'node', 'nodes')} ({', '.join(sorted(nodes))})"
    )
    return Check("one download", served == wanted, compared)


def late_was_a_hit(actor: Actor, served_meanwhile: int, *, had_it: bool) -> Check:
    """had_it: the node where it went held the data before it came."""
    hit = actor.result is not None and actor.result.hit and actor.result.fetched_bytes == 0
    seconds = f" {actor.result.seconds:.2f} s after it was seen" if actor.result else ""
    compared = f"{actor.name}: on {actor.node or 'no node'}{seconds}, S3 served {served_meanwhile} bytes meanwhile"
    return Check("warm stays warm", hit and had_it and served_meanwhile == 0, compared)


def nothing_left(seats: list[str], unfinished: list[str]) -> Check:
    """unfinished: files in the nodes' incoming/ folders."""
    compared = f"{_count(len(seats), 'seat', 'seats')} left, {_count(len(unfinished), 'file', 'files')} in incoming/"
    return Check("no litter", not seats and not unfinished, compared)


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
