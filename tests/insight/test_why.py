"""Why a Pod waits: one row a situation, from facts to stage, bottleneck, and the words that people look for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from kube_cache import names
from kube_cache.contracts.common import Phase, Warming
from kube_cache.insight.bottleneck import Bottleneck
from kube_cache.insight.facts import Call, Facts, PodSide, Told, WorkflowSide, pod_side
from kube_cache.insight.why import Stage, explain
from kube_cache.temporal.downloads import AWAY, DONE, FETCHING, PAUSED, QUEUED, Download

NOW = 1_800_000_000.0
GIB = 1 << 30
WARMING = Warming("gpu-3", "disk-1", ["d1"], 100 * GIB, 20 * GIB)
NETWORK = {"network": 0.7, "first_byte": 0.1, "decrypt": 0.15, "write": 0.05}


def pod(phase: str = "", message: str = "", *, age: float = 300, **fields: Any) -> PodSide:
    """A gated Pod of that phase, which was told of it a minute ago."""
    told = (Told("X", Phase.RESOLVING, NOW - age), Told("X", phase, NOW - 60)) if phase else ()
    return PodSide("uid", phase, message, ("s3://models/gpt",), created_at=NOW - age, told=told, **fields)


def running(phase: str = "", *calls: Call, **fields: Any) -> WorkflowSide:
    return WorkflowSide(True, phase, "gpu-3", NOW - 200, calls, **fields)


def facts(
    seen: PodSide | None, workflow: WorkflowSide | None = None, download: Download | None = None, **fields: Any
) -> Facts:
    default = running(seen.phase) if seen is not None and workflow is None and "temporal_error" not in fields else None
    return Facts(
        "ml/train", seen, workflow=workflow or default, downloads={"d1": download} if download else {}, **fields
    )


def warming(download: Download | None, **fields: Any) -> Facts:
    return facts(pod(Phase.WARMING, "20 % of 100.0 GiB on node gpu-3", warming=WARMING), download=download, **fields)


def fetching(shares: dict[str, float], **fields: Any) -> Download:
    return Download(FETCHING, 30 * GIB, 1.0 * GIB, since=NOW - 90, shares=shares, **fields)


class Case(NamedTuple):
    facts: Facts
    stage: Stage
    bottleneck: Bottleneck
    words: tuple[str, ...]
    """All of them are in the paragraph."""
    since: float | None = 60
    """Seconds ago; None = not said."""


CASES = {
    "no such Pod": Case(Facts("ml/train"), Stage.ABSENT, Bottleneck.NONE, ("there is no such Pod",), None),
    "only just created": Case(
        Facts("ml/train", pod(age=2)), Stage.GATED, Bottleneck.NONE, ("about to see it",), 2
    ),
    "nobody looks after it": Case(
        Facts("ml/train", pod(age=300)), Stage.GATED, Bottleneck.OPERATOR, ("knows no workflow", "Lease"), 300
    ),
    "its workflow was terminated": Case(
        facts(pod(Phase.WARMING, "9 %"), WorkflowSide(False, ended_as="was terminated by kim: oops")),
        Stage.GATED, Bottleneck.OPERATOR, ("was terminated by kim: oops", "starts a workflow within a minute"), 300,
    ),
    "its workflow cannot be replayed": Case(
        facts(pod(Phase.WARMING, "9 %"), running(problem="cause=NonDeterministicError")),
        Stage.GATED, Bottleneck.OPERATOR, ("NonDeterministicError",), 300,
    ),
    "short steps say nothing": Case(
        facts(pod(age=4), running()), Stage.GATED, Bottleneck.NONE, ("short steps are not reported",), 4
    ),
    "resolving": Case(
        facts(pod(Phase.RESOLVING, "listing s3://models/gpt")), Stage.GATED, Bottleneck.NETWORK, ("listing",), 300
    ),
    "the origin does not answer the list": Case(
        facts(
            pod(Phase.RESOLVING, "listing s3://models/gpt"),
            running(Phase.RESOLVING, Call("resolve_dataset", False, 4, "SourceUnavailable: no route to s3", NOW - 100)),
        ),
        Stage.GATED, Bottleneck.NETWORK, ("attempt 4", "no route to s3", "tried again by itself"), 300,
    ),
    "foreign gate": Case(
        facts(
            pod(Phase.WAITING_FOR_GATES, "waiting for…", foreign_gates=("kueue.x-k8s.io/admission",)),
        ),
        Stage.GATED, Bottleneck.GATE, ("kueue.x-k8s.io/admission", "Look at whoever owns it"),
    ),
    "foreign gates before anything was said": Case(
        facts(pod(age=3, foreign_gates=("a.com/x", "b.com/y")), running()),
        Stage.GATED, Bottleneck.GATE, ("a.com/x, b.com/y", "owns them"), 3,
    ),
    "waiting for a seat": Case(
        facts(pod(Phase.WAITING_FOR_CAPACITY, "no node fits yet: 0/3 nodes: 3 Insufficient nvidia.com/gpu")),
        Stage.GATED, Bottleneck.SEAT, ("Insufficient nvidia.com/gpu", "Make room"),
    ),
    "the API server refuses the seat": Case(
        facts(pod(Phase.PLACING, "cannot take a seat: SeatForbidden: exceeded quota")),
        Stage.GATED, Bottleneck.SEAT, ("exceeded quota", "the API server refuses the seat"),
    ),
    "the agent does not take the check": Case(
        facts(
            pod(Phase.CHECKING, "asking the agent on node gpu-3 what is on its disk"),
            running(Phase.CHECKING, Call("check_disk", False, 1, "", NOW - 40)),
        ),
        Stage.GATED, Bottleneck.AGENT, ("asking the agent on node gpu-3", "DaemonSet"),
    ),
    "every byte is read again": Case(
        facts(
            pod(Phase.CHECKING, "asking the agent", verifies_fully=True),
            running(Phase.CHECKING, Call("check_disk", True, 1, "", NOW - 40)),
        ),
        Stage.GATED, Bottleneck.DISK, ("verify: full",),
    ),
    "disk full": Case(
        facts(pod(Phase.WAITING_FOR_DISK, "InsufficientDisk on node gpu-3: needs 60 MiB\nNo other node fits")),
        Stage.GATED, Bottleneck.DISK, ("InsufficientDisk on node gpu-3", "`kube-cache retry ml/train`"),
    ),
    "disk full, asked again and again": Case(
        facts(
            pod(Phase.WAITING_FOR_DISK, "InsufficientDisk on node gpu-3: needs 60 MiB"),
            running(Phase.WAITING_FOR_DISK, Call("await_disk", False, 9, "NoRoomYet: needs 60 MiB", NOW - 50)),
        ),
        Stage.GATED,
        Bottleneck.DISK,
        ("goes on by itself when one can", "`kube-cache retry ml/train`"),
    ),
    "waiting for its group": Case(
        facts(pod(Phase.WAITING_FOR_GROUP, "2 of 8 Pods of group train-7 are as far", group="train-7")),
        Stage.GATED, Bottleneck.GROUP, ("train-7", "2 of 8"),
    ),
    "queued behind other downloads": Case(
        warming(Download(QUEUED, since=NOW - 30)), Stage.WARMING, Bottleneck.QUEUE,
        ("other downloads of the node go first", "kube-cache priority"),
    ),
    "network is the bottleneck": Case(
        warming(fetching(NETWORK)), Stage.WARMING, Bottleneck.NETWORK,
        ("80% of the connections' time", "50 % of 100.0 GiB", "1.0 GiB/s", "done in 50s", "node gpu-3"),
    ),
    "network is the bottleneck, and neighbours send as well": Case(
        warming(fetching(NETWORK, neighbour_bytes=15 * GIB, neighbours=7)), Stage.WARMING, Bottleneck.NETWORK,
        ("bytes of the origin and of neighbours", "50 % from 7 neighbours so far"),
    ),
    "decryption is the bottleneck": Case(
        warming(fetching({"decrypt": 0.62, "network": 0.3, "write": 0.08})), Stage.WARMING, Bottleneck.DECRYPT,
        ("62% of the connections' time goes into decrypting TLS", "more CPUs"),
    ),
    "the disk is the bottleneck": Case(
        warming(fetching({"write": 0.9, "network": 0.1})), Stage.WARMING, Bottleneck.DISK,
        ("90%", "writing to the node's disk"),
    ),
    "checksums are the bottleneck": Case(
        warming(fetching({"verify": 0.6, "network": 0.4})), Stage.WARMING, Bottleneck.VERIFY, ("checksums",)
    ),
    "the origin throttles": Case(
        warming(fetching({"wait": 0.7, "network": 0.3}, retries={"throttled": 12})), Stage.WARMING,
        Bottleneck.THROTTLING, ("throttled 12", "higher request rate"),
    ),
    "requests fail and are made again": Case(
        warming(fetching({"wait": 0.7, "network": 0.3}, retries={"unavailable": 3})), Stage.WARMING,
        Bottleneck.NETWORK, ("requests failed (unavailable 3)",),
    ),
    "nothing comes": Case(
        warming(Download(FETCHING, 30 * GIB, 0.0)), Stage.WARMING, Bottleneck.NETWORK, ("nothing comes",)
    ),
    "too early to tell": Case(
        warming(fetching({})), Stage.WARMING, Bottleneck.UNKNOWN, ("no whole range of bytes yet", "Look again")
    ),
    "the download fails for want of the origin": Case(
        warming(Download(FETCHING, failure="SourceUnavailable: connection refused", attempt=3)), Stage.WARMING,
        Bottleneck.NETWORK, ("attempt 3", "connection refused"),
    ),
    "the download fails for want of the disk": Case(
        warming(Download(QUEUED, failure="DiskFault: EIO on /cache", attempt=2)), Stage.WARMING, Bottleneck.DISK,
        ("EIO on /cache", "elsewhere"),
    ),
    "the agent is away in the middle": Case(
        warming(Download(AWAY)), Stage.WARMING, Bottleneck.AGENT, ("agent does not answer", "another node"),
    ),
    "the download itself is paused": Case(
        warming(Download(PAUSED)), Stage.WARMING, Bottleneck.PERSON, ("Signal `resume`",),
    ),
    "done, and about to be released": Case(
        warming(Download(DONE, 80 * GIB)), Stage.WARMING, Bottleneck.NONE, ("100 % of 100.0 GiB", "the release follows"),
    ),
    "Temporal is away": Case(
        warming(None, temporal_error="connection refused"), Stage.WARMING, Bottleneck.UNKNOWN,
        ("20 % of 100.0 GiB on node gpu-3", "Temporal tells nothing (connection refused)", "what the Pod says"),
    ),
    "the API server is away": Case(
        Facts(
            "ml/train", None, "timed out", running(Phase.WARMING), "", {"d1": fetching(NETWORK)},
        ),
        Stage.WARMING, Bottleneck.NETWORK, ("on node gpu-3", "API server tells nothing (timed out)"), 200,
    ),
    "the API server is away, and a person must act": Case(
        Facts("ml/train", None, "timed out", running(Phase.AWAITING_OPERATOR)),
        Stage.STOPPED, Bottleneck.PERSON, ("kube-cache retry ml/train",), 200,
    ),
    "both are away": Case(
        Facts("ml/train", None, "timed out", None, "refused"), Stage.UNKNOWN, Bottleneck.UNKNOWN,
        ("timed out", "refused", "KUBECONFIG and TEMPORAL_ADDRESS"), None,
    ),
    "an error that a retry cannot mend": Case(
        facts(pod(Phase.AWAITING_OPERATOR, "DatasetNotFound: nothing is at s3://models/gpt")),
        Stage.STOPPED, Bottleneck.PERSON, ("nothing is at s3://models/gpt", "`kube-cache retry ml/train`"),
    ),
    "paused": Case(
        facts(pod(Phase.PAUSED, "paused; what was fetched is kept")), Stage.STOPPED, Bottleneck.PERSON,
        ("`kube-cache resume ml/train`",),
    ),
    "cancelled": Case(
        facts(pod(Phase.CANCELLED, "cancelled")), Stage.STOPPED, Bottleneck.PERSON, ("`kube-cache retry ml/train`",)
    ),
    "the annotation was removed": Case(
        facts(replace(pod(Phase.DATASET_REMOVED, "annotation is missing"), datasets=())), Stage.STOPPED,
        Bottleneck.PERSON, (names.DATASET_ANNOTATION, names.GATE),
    ),
    "released, and no room to bind": Case(
        facts(pod(Phase.BINDING, "released", gated=False, receipt_node="gpu-3", unschedulable="0/3 nodes fit")),
        Stage.RELEASED, Bottleneck.SCHEDULER, ("0/3 nodes fit", "Make room on node gpu-3"),
    ),
    "released and bound": Case(
        facts(
            pod(Phase.DONE, "100.0 GiB on node gpu-3, already there", gated=False, receipt_node="gpu-3", node="gpu-3",
                bound_at=NOW - 7)
        ),
        Stage.BOUND, Bottleneck.NONE, ("runs on node gpu-3", "waits for nothing of Kube-Cache"), 7,
    ),
    "bound elsewhere, and warmed there": Case(
        facts(
            pod(Phase.WARMING, "its containers start when the data is there", gated=False, receipt_node="gpu-3",
                node="gpu-5", warming=WARMING),
            download=fetching(NETWORK),
        ),
        Stage.WARMING, Bottleneck.NETWORK, ("bound to node gpu-5, not to gpu-3",),
    ),
    "ended": Case(
        facts(pod(Phase.DONE, "done", gated=False, has_ended=True)), Stage.ENDED, Bottleneck.NONE, ("ended",), None
    ),
    "deleted behind a finalizer": Case(
        facts(pod(Phase.WARMING, "9 %", is_deleted=True)), Stage.ENDED, Bottleneck.NONE, ("being deleted",), None
    ),
    "not ours, with a gate of others": Case(
        Facts("ml/train", PodSide("uid", gated=False, foreign_gates=("kueue/x",), created_at=NOW - 60)),
        Stage.FOREIGN, Bottleneck.GATE, ("asks for no dataset", "kueue/x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_situation_has_its_stage_its_bottleneck_and_its_words(case: Case) -> None:
    answer = explain(case.facts, now=NOW)
    text = answer.paragraph(NOW)
    assert (answer.stage, answer.bottleneck) == (case.stage, case.bottleneck), text
    for words in case.words:
        assert words in text
    assert (answer.since and NOW - answer.since) == (case.since or 0), text
    assert text.startswith("ml/train is ")
    assert text.endswith(".")
    assert ".." not in text
    assert "  " not in text


def test_a_bottleneck_is_never_named_without_a_reason_or_a_remedy() -> None:
    for name, case in CASES.items():
        finding = explain(case.facts, now=NOW).finding
        if finding.bottleneck not in (Bottleneck.NONE, Bottleneck.UNKNOWN):
            assert finding.why or finding.remedy, name


def test_the_wait_begins_with_the_first_event_of_the_present_phase() -> None:
    told = (
        Told("Warming", Phase.WARMING, NOW - 500), Told("SeatLost", Phase.PLACING, NOW - 400),
        Told("Warming", Phase.WARMING, NOW - 90), Told("Warming", Phase.WARMING, NOW - 30),
    )  # fmt: skip
    seen = replace(pod(Phase.WARMING, "9 %", warming=WARMING), told=told)
    assert explain(facts(seen, download=fetching(NETWORK)), now=NOW).since == NOW - 90


def test_a_pod_is_read_with_its_condition_its_gates_and_our_events_alone() -> None:
    document = {
        "metadata": {
            "namespace": "ml", "name": "train", "uid": "u", "creationTimestamp": "2027-01-15T08:00:00Z",
            "annotations": {names.DATASET_ANNOTATION: "s3://models/a, s3://models/b"},
        },
        "spec": {"schedulingGates": [{"name": names.GATE}, {"name": "kueue/x"}], "containers": []},
        "status": {"conditions": [{"type": names.CONDITION, "reason": "WaitingForGates", "message": "for kueue/x"}]},
    }  # fmt: skip
    ours = {"reason": "WaitingForGates", "action": "WaitingForGates", "eventTime": "2027-01-15T08:00:05.5Z",
            "reportingComponent": names.REPORTING_CONTROLLER, "metadata": {}}  # fmt: skip
    others = {"reason": "FailedScheduling", "firstTimestamp": "2027-01-15T08:00:09Z", "metadata": {}}
    seen = pod_side(document, [others, ours])
    assert (seen.phase, seen.message, seen.gated) == ("WaitingForGates", "for kueue/x", True)
    assert seen.datasets == ("s3://models/a", "s3://models/b")
    assert seen.foreign_gates == ("kueue/x",)
    assert [(told.phase, told.at - seen.created_at) for told in seen.told] == [("WaitingForGates", 5.5)]


def test_a_pod_that_has_joined_a_prefetch_is_told_which() -> None:
    joined = replace(warming(fetching(NETWORK)), joined=("ml/nightly", "web/other"))
    text = explain(joined, now=NOW).paragraph(NOW)
    assert "prefetch ml/nightly and 1 more waits for the same download, which has the Pod's priority now" in text
    assert "prefetch" not in explain(warming(fetching(NETWORK)), now=NOW).paragraph(NOW)
