"""Why a Pod waits: from facts to one paragraph. A pure function; `kube_cache.insight.gather` collects the facts.

The Pod has the first word, since its condition is what everybody else sees. Temporal adds what the Pod is not told:
calls that wait or fail, how far the download is now, and whether anybody looks after the Pod at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.insight.bottleneck import Bottleneck, Finding, of_downloads, of_failure
from kube_cache.insight.facts import Call, Facts, PodSide, WorkflowSide
from kube_cache.temporal.downloads import FETCHING, Download, words_of_neighbours
from kube_cache.units import format_bytes, format_seconds

_NEW_S: Final = 10.0
"""Age in seconds up to which a Pod that says nothing is no reason to worry: short phases are not reported."""
_STALE_S: Final = 60.0
"""Two sweeps: after that, a Pod without a workflow means that no operator leads."""
_NO_OPERATOR: Final = (
    "The leading operator starts a workflow within a minute: if this stays, look whether an operator runs and leads"
    f" (Lease {names.LEASE} in {names.SEATS_NAMESPACE}, and its log)"
)


class Stage(StrEnum):
    """Where the Pod is in its life."""

    ABSENT = "absent"
    FOREIGN = "not ours"
    """The Pod asks for no dataset."""
    GATED = "gated"
    WARMING = "warming"
    """The Pod's data is fetched."""
    STOPPED = "stopped"
    """The Pod is gated until a person acts."""
    RELEASED = "released"
    """The gate is gone, and the Pod is not bound yet."""
    BOUND = "bound"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """Neither source answers."""


@dataclass(frozen=True)
class Answer:
    name: str
    stage: Stage
    phase: str
    waits_for: str
    """A clause that goes on after "it", in the words of the source."""
    finding: Finding = field(default_factory=lambda: Finding(Bottleneck.NONE, ""))
    since: float = 0
    """When the wait began, seconds since the epoch; 0 = unknown."""
    notes: tuple[str, ...] = ()
    """Sentences about what could not be asked."""

    @property
    def bottleneck(self) -> Bottleneck:
        return self.finding.bottleneck

    def paragraph(self, now: float) -> str:
        """Compose the answer for people. now: seconds since the epoch."""
        phase = f" ({self.phase})" if self.phase and self.phase.lower() != self.stage else ""
        sentences = [f"{self.name} is {self.stage}{phase}: {' '.join(self.waits_for.split())}"]
        if self.bottleneck == Bottleneck.NONE:
            sentences.append(self.finding.why)
        elif self.bottleneck != Bottleneck.UNKNOWN or self.finding.why:
            why = f": {self.finding.why}" if self.finding.why else ""
            sentences.append(f"Bottleneck: {self.bottleneck}{why}")
        if self.since:
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
            sentences.append(f"Since {clock} ({format_seconds(max(0.0, now - self.since))})")
        sentences += [self.finding.remedy, *self.notes]
        return " ".join(f"{sentence.strip().rstrip('.')}." for sentence in sentences if sentence.strip())


def explain(facts: Facts, *, now: float) -> Answer:
    """Tell where the Pod is in its life, what it waits for, what holds it up, since when, and what to do."""
    answer = _explain(facts, now)
    notes = []
    if facts.kubernetes_error and facts.workflow is not None:
        notes.append(f"The API server tells nothing ({facts.kubernetes_error}); this is what Temporal says")
    if facts.temporal_error and facts.pod is not None:
        notes.append(f"Temporal tells nothing ({facts.temporal_error}); this is what the Pod says")
    return Answer(**{**answer.__dict__, "notes": (*answer.notes, *notes)})


def _explain(facts: Facts, now: float) -> Answer:
    pod, workflow = facts.pod, facts.workflow
    if pod is None and facts.kubernetes_error:
        return _by_temporal_alone(facts)
    if pod is None:
        return Answer(facts.name, Stage.ABSENT, "", "there is no such Pod")
    if pod.has_ended:
        return Answer(facts.name, Stage.ENDED, pod.phase, "its containers have ended; its pins go with it")
    if pod.is_deleted:
        waits = "it is being deleted; a finalizer or the kubelet holds it, Kube-Cache does not"
        return Answer(facts.name, Stage.ENDED, pod.phase, waits)
    if not pod.datasets and not pod.gated and not pod.receipt_node:
        return _foreign(facts.name, pod)
    if not pod.gated:
        return _released(facts, pod)
    return _gated(facts, pod, workflow, now)


def _foreign(name: str, pod: PodSide) -> Answer:
    waits = f"it asks for no dataset (annotation {names.DATASET_ANNOTATION}), so Kube-Cache does not hold it"
    if pod.foreign_gates:
        finding = Finding(Bottleneck.GATE, f"other controllers hold gates: {', '.join(pod.foreign_gates)}")
        return Answer(name, Stage.FOREIGN, "", waits, finding, pod.created_at)
    if pod.unschedulable:
        finding = Finding(Bottleneck.SCHEDULER, pod.unschedulable)
        return Answer(name, Stage.FOREIGN, "", waits, finding, pod.created_at)
    return Answer(name, Stage.FOREIGN, "", waits)


def _released(facts: Facts, pod: PodSide) -> Answer:
    said = pod.message or "its gate is gone"
    since = _since(pod, (Phase.BINDING, Phase.DONE)) or pod.bound_at
    if pod.node and pod.receipt_node and pod.node != pod.receipt_node and pod.mounts_cache:
        if pod.phase == Phase.WARMING:
            waits = f"it was bound to node {pod.node}, not to {pod.receipt_node}, and {said}"
            finding = of_downloads(list(facts.downloads.values())) if facts.downloads else _unmeasured(facts)
            return Answer(facts.name, Stage.WARMING, pod.phase, waits, finding, _since(pod, (Phase.WARMING,)))
        return Answer(facts.name, Stage.BOUND, pod.phase, said, since=since)
    if pod.node:
        waits = f"it runs on node {pod.node} and waits for nothing of Kube-Cache; {said}"
        return Answer(facts.name, Stage.BOUND, pod.phase, waits, since=pod.bound_at or since)
    if pod.foreign_gates:
        return Answer(
            facts.name, Stage.RELEASED, pod.phase, said,
            Finding(Bottleneck.GATE, f"other controllers hold gates: {', '.join(pod.foreign_gates)}"), since,
        )  # fmt: skip
    if pod.unschedulable:
        remedy = f"Make room on node {pod.receipt_node or 'that it may use'}, or delete the Pod for a fresh one"
        return Answer(
            facts.name, Stage.RELEASED, pod.phase, said, Finding(Bottleneck.SCHEDULER, pod.unschedulable, remedy), since
        )
    return Answer(
        facts.name, Stage.RELEASED, pod.phase, said, Finding(Bottleneck.SCHEDULER, "it is about to bind the Pod"), since
    )


def _gated(facts: Facts, pod: PodSide, workflow: WorkflowSide | None, now: float) -> Answer:
    age = now - pod.created_at if pod.created_at else 0
    if not facts.temporal_error and (workflow is None or not workflow.is_running):
        return _unattended(facts, pod, workflow, age)
    if workflow is not None and workflow.problem:
        finding = Finding(
            Bottleneck.OPERATOR,
            f"the workflow's tasks fail: {workflow.problem}",
            "The operator ends a workflow that it cannot replay and starts another within a minute",
        )
        return Answer(facts.name, Stage.GATED, pod.phase, pod.message or "it waits", finding, pod.created_at)
    phase = pod.phase or (workflow.phase if workflow else "")
    if pod.foreign_gates and phase in ("", Phase.RESOLVING, Phase.WAITING_FOR_GATES):
        waits = f"it waits for other controllers to remove their gates: {', '.join(pod.foreign_gates)}"
        finding = Finding(Bottleneck.GATE, "", f"Look at whoever owns {'them' if pod.foreign_gates[1:] else 'it'}")
        since = _since(pod, (Phase.WAITING_FOR_GATES,)) or pod.created_at
        return Answer(facts.name, Stage.GATED, Phase.WAITING_FOR_GATES, waits, finding, since)
    call = _worst_call(workflow)
    if not phase:
        return _silent(facts, pod, age)
    since = _since(pod, (phase,)) or (call.since if call and not pod.phase else 0) or pod.created_at
    if phase == Phase.WARMING:
        return _warming(facts, pod, phase, since)
    said = pod.message or _DEFAULT_WORDS.get(phase, "it goes on")
    stage = Stage.STOPPED if phase in _STOPPED else Stage.GATED
    return Answer(facts.name, stage, phase, said, _finding_of_phase(facts.name, pod, phase, call), since)


_STOPPED: Final = (Phase.AWAITING_OPERATOR, Phase.PAUSED, Phase.CANCELLED, Phase.DATASET_REMOVED)
_CANNOT: Final = "cannot "
"""How the workflow's words about a call that fails begin."""
_DEFAULT_WORDS: Final[dict[str, str]] = {
    Phase.RESOLVING: "its dataset is listed",
    Phase.PLACING: "its seat waits for the scheduler",
    Phase.CHECKING: "the node's agent is asked what is on the disk",
    Phase.WAITING_FOR_CAPACITY: "no node fits",
    Phase.RELEASING: "its data is complete and its gate is about to go",
    Phase.BINDING: "its gate is about to go",
    Phase.DONE: "its data is ready",
}


def _finding_of_phase(name: str, pod: PodSide, phase: str, call: Call | None) -> Finding:
    if phase in _STOPPED:
        return Finding(
            Bottleneck.PERSON, "nothing goes on until somebody acts", _REMEDY_OF_STOP[phase].format(name=name)
        )
    # A Pod that waits for a disk fails on purpose until there is room.
    if call is not None and call.failure and phase != Phase.WAITING_FOR_DISK:
        return of_failure(call.failure, call.attempt)
    match phase:
        case Phase.RESOLVING:
            return Finding(Bottleneck.NETWORK, "the origin is listed", "")
        case Phase.PLACING if pod.message.startswith(_CANNOT):
            return Finding(
                Bottleneck.SEAT,
                "the API server refuses the seat",
                "Mend what the message names; the seat is tried again by itself, at the latest after five minutes",
            )
        case Phase.PLACING | Phase.WAITING_FOR_CAPACITY:
            return Finding(
                Bottleneck.SEAT,
                "the scheduler has found no node that fits the Pod",
                "Make room: end or move other Pods, add a node, or ask for less; the Pod goes on by itself",
            )
        case Phase.WAITING_FOR_DISK:
            return Finding(
                Bottleneck.DISK,
                "no disk that the Pod may use can take its data",
                f"The Pod goes on by itself when one can; at once: `kube-cache retry {name}`. `kube-cache store du --node`"
                " shows what fills it. What is there by a prefetch alone is no obstacle: it makes room for a Pod",
            )
        case Phase.WAITING_FOR_GROUP:
            return Finding(
                Bottleneck.GROUP,
                f"other Pods of group {pod.group or 'the Pod'} are not as far",
                "`kube-cache status` shows them; ask why of one that is not WaitingForGroup",
            )
        case Phase.CHECKING if call is not None and call.is_running:
            why = "every byte is read again (verify: full)" if pod.verifies_fully else "the disk is checked"
            return Finding(Bottleneck.DISK, why)
        case Phase.CHECKING:
            return Finding(
                Bottleneck.AGENT,
                "the node's agent has not taken the check yet",
                "The Pod goes to another node if the agent stays away; look at the agents' DaemonSet there",
            )
        case _:
            return Finding(Bottleneck.NONE, "")


_REMEDY_OF_STOP: Final[dict[str, str]] = {
    Phase.AWAITING_OPERATOR: "When it is mended: `kube-cache retry {name}`",
    Phase.PAUSED: "`kube-cache resume {name}` goes on",
    Phase.CANCELLED: "`kube-cache retry {name}` starts it again",
    Phase.DATASET_REMOVED: f"Put annotation {names.DATASET_ANNOTATION} back, or remove the gate {names.GATE}",
}


def _warming(facts: Facts, pod: PodSide, phase: str, since: float) -> Answer:
    warming = pod.warming
    downloads = list(facts.downloads.values())
    if facts.temporal_error or not warming:
        said = pod.message or "its data is fetched"
        return Answer(facts.name, Stage.WARMING, phase, said, _unmeasured(facts), since)
    finding = of_downloads(downloads)
    begun = min((download.since for download in downloads if download.since), default=0.0)
    said = _progress(pod, downloads) if finding.bottleneck != Bottleneck.AGENT else pod.message
    said += _of_prefetches(facts.joined)
    return Answer(facts.name, Stage.WARMING, phase, said, finding, _since(pod, (phase,)) or begun or since)


def _progress(pod: PodSide, downloads: Sequence[Download]) -> str:
    """Compose how far the Pod's data is by the heartbeats, which are newer than what the Pod was told."""
    warming = pod.warming
    assert warming is not None
    done = min(warming.total_bytes, warming.present_bytes + sum(download.done_bytes for download in downloads))
    rate = sum(download.bytes_per_s for download in downloads)
    percent = 100 * done / warming.total_bytes if warming.total_bytes else 100.0
    words = f"{', '.join(pod.datasets)} comes to node {warming.node}: {percent:.0f} % of {format_bytes(warming.total_bytes)}"
    if rate and any(download.state == FETCHING for download in downloads):
        words += f", done in {format_seconds((warming.total_bytes - done) / rate)}"
    if fed := words_of_neighbours(downloads, done - warming.present_bytes):
        words += f", {fed} so far"
    return words


def _of_prefetches(joined: Sequence[str]) -> str:
    """Say whose download the Pod waits for; empty where no prefetch waits for the same."""
    if not joined:
        return ""
    more = f" and {len(joined) - 1} more" if len(joined) > 1 else ""
    return f"; prefetch {joined[0]}{more} waits for the same download, which has the Pod's priority now"


def _unmeasured(facts: Facts) -> Finding:
    return Finding(Bottleneck.UNKNOWN, "only Temporal knows what the connections do" if facts.temporal_error else "")


def _unattended(facts: Facts, pod: PodSide, workflow: WorkflowSide | None, age: float) -> Answer:
    """No workflow looks after a gated Pod."""
    if workflow is not None:
        why = f"its workflow {workflow.ended_as or 'has ended'}, and the gate is still there"
    elif age <= _NEW_S:
        finding = Finding(Bottleneck.NONE, "The Pod is only just there")
        return Answer(facts.name, Stage.GATED, pod.phase, "the operator is about to see it", finding, pod.created_at)
    else:
        why = "Temporal knows no workflow for the Pod"
    waits = pod.message or "nobody has said anything about it"
    remedy = _NO_OPERATOR if age <= _STALE_S or workflow else _NO_OPERATOR.replace("if this stays, l", "l")
    return Answer(facts.name, Stage.GATED, pod.phase, waits, Finding(Bottleneck.OPERATOR, why, remedy), pod.created_at)


def _silent(facts: Facts, pod: PodSide, age: float) -> Answer:
    if age <= _NEW_S:
        finding = Finding(Bottleneck.NONE, "The Pod is only just there")
        return Answer(facts.name, Stage.GATED, "", "short steps are not reported", finding, pod.created_at)
    finding = Finding(Bottleneck.OPERATOR, "the Pod has been told nothing", _NO_OPERATOR)
    return Answer(facts.name, Stage.GATED, "", "nobody has said anything about it", finding, pod.created_at)


def _by_temporal_alone(facts: Facts) -> Answer:
    workflow = facts.workflow
    if workflow is None:
        why = f"the API server tells nothing ({facts.kubernetes_error})"
        if facts.temporal_error:
            why += f", nor does Temporal ({facts.temporal_error})"
        else:
            why += ", and Temporal knows no workflow of such a Pod"
        finding = Finding(Bottleneck.UNKNOWN, "", "Look at KUBECONFIG and TEMPORAL_ADDRESS")
        return Answer(facts.name, Stage.UNKNOWN, "", why, finding)
    call = _worst_call(workflow)
    where = f" on node {workflow.node}" if workflow.node else ""
    if not workflow.is_running:
        return Answer(
            facts.name, Stage.UNKNOWN, workflow.phase, f"its workflow {workflow.ended_as or 'has ended'}{where}"
        )
    stage = Stage.WARMING if workflow.phase == Phase.WARMING else Stage.GATED
    stage = Stage.STOPPED if workflow.phase in _STOPPED else stage
    if facts.downloads:
        finding = of_downloads(list(facts.downloads.values()))
    else:
        finding = _finding_of_phase(facts.name, PodSide(), workflow.phase, call)
    since = (call.since if call else 0) or workflow.started_at
    return Answer(facts.name, stage, workflow.phase, f"its workflow is in this phase{where}", finding, since)


def _worst_call(workflow: WorkflowSide | None) -> Call | None:
    """The call that waits longest, one that fails before the others."""
    calls = workflow.calls if workflow else ()
    return min(calls, key=lambda call: (not call.failure, call.since), default=None)


def _since(pod: PodSide, phases: Sequence[str]) -> float:
    """Begin of the Pod's present phase by its Events: of those at the end that were written in it, the first."""
    since = 0.0
    for told in reversed(pod.told):
        if told.phase not in phases:
            break
        since = told.at
    return since
