"""Every name that other systems see: annotations, gates, queues, workflow ids.

A name lives here once, so that a rename is one line and a grep. No logic beyond composing a name and parsing it again.
Search attributes, which need Temporal's types, are in `kube_cache.temporal.search_attributes`; signals and queries are
the methods of the workflows.
"""

from __future__ import annotations

from typing import NamedTuple

DOMAIN = "kube-cache.openai.com"

# Names that users write on a Pod. The string below each is its row in docs/annotations.md: `Meaning. Values: …`.
DATASET_ANNOTATION = "x-openai/required-dataset"
"""What must be on the node before the Pod starts; several datasets are mounted in the order in which they are written.
Values: `s3://bucket/prefix`, `gs://bucket/prefix`, with commas between them; at most 256."""
GATE = f"{DOMAIN}/gate"
"""A scheduling gate: holds the Pod until its data is on the node. The admission policies add it.
Values: an entry of `spec.schedulingGates`."""
MAX_GATE_TIME_ANNOTATION = f"{DOMAIN}/max-gate-time"
"""How long the Pod may wait while our gate is the last one. Without it `KUBE_CACHE_OPERATOR__MAX_GATE_TIME_S` counts.
Values: a duration, as `30m`, `1h30m`."""
ON_TIMEOUT_ANNOTATION = f"{DOMAIN}/on-timeout"
"""What happens when that time is over: stay gated and say so, or start without the data.
Values: `keep` (default), `release`."""
PRIORITY_ANNOTATION = f"{DOMAIN}/priority"
"""Whose data is fetched first on a node: the higher goes first.
Values: a whole number from `-100` to `100`; `0` by default."""
ACTION_ANNOTATION = f"{DOMAIN}/action"
"""A request to the Pod's workflow, done once for each change of the value; a second retry is `retry-2`.
Values: `retry`, `cancel`, `pause`, `resume`."""
VERIFY_ANNOTATION = f"{DOMAIN}/verify"
"""How data that is on the node already is checked before the release: each file's metadata, or every byte.
Values: `quick` (default), `full`."""
REQUIRE_ANNOTATION = f"{DOMAIN}/require"
"""Refuse objects for which the origin keeps no checksum.
Values: `checksum`."""
GROUP_ANNOTATION = f"{DOMAIN}/group"
"""Release this Pod together with the others of its group in its namespace, all on the same snapshot. Needs
`group-size`. Values: a name of at most 63 of a-z, 0-9 and -."""
GROUP_SIZE_ANNOTATION = f"{DOMAIN}/group-size"
"""How many Pods of the group wait behind our gate.
Values: a whole number from `1` to `1000`."""
ON_STUCK_ANNOTATION = f"{DOMAIN}/on-stuck"
"""What happens when the scheduler finds no place for the released Pod: say so, or evict it for a fresh one where a
controller owns it.
Values: `keep` (default), `evict`."""
NEIGHBOURS_ANNOTATION = f"{DOMAIN}/neighbours"
"""Whether a download for this Pod may take bytes from other nodes, in a cluster where nodes feed each other. Of the
Pods that wait for one download, one that forbids it decides. Values: `allow` (default), `forbid`."""

# Names that we write on a Pod; the string below each is its row in docs/annotations.md, too.
CONDITION = f"{DOMAIN}/DatasetReady"
"""Condition: `True` once the data is on the node; its reason is the phase, its message what the Pod waits for."""
STATUS_ANNOTATION = f"{DOMAIN}/status"
"""The condition in words, where `kubectl describe pod` prints it."""
WARMING_ANNOTATION = f"{DOMAIN}/warming"
"""Which download the Pod waits for, only while it does: from it the leading operator writes the progress."""
SNAPSHOT_ANNOTATION = f"{DOMAIN}/snapshot"
"""Receipt: digests of the snapshots that the Pod was released with, in the order of its datasets."""
NODE_ANNOTATION = f"{DOMAIN}/node"
"""Receipt: the node that holds them."""
MANAGED_LABEL = f"{DOMAIN}/managed"
"""Label: `true` on a Pod that the operator has released. Users do not write it."""
CACHE_ID_ANNOTATION = f"{DOMAIN}/cache-id"
"""Receipt: identity of the node's disk; a disk that replaces another has its own."""
TRACE_ANNOTATION = f"{DOMAIN}/trace-id"
"""The Pod's trace, while traces are sent."""
FIELD_MANAGER = "kube-cache"
REPORTING_CONTROLLER = DOMAIN

# Names that we write on a seat (the placeholder Pod that holds a node for a gated Pod).
SEAT_LABEL = f"{DOMAIN}/seat"
SEAT_WORKFLOW_ANNOTATION = f"{DOMAIN}/workflow-id"
SEAT_REQUIREMENTS_ANNOTATION = f"{DOMAIN}/requirements"  # of the gated Pod, when the seat was made
SEAT_REACH_ANNOTATION = f"{DOMAIN}/reach"  # a `Reach`
SEAT_PRIORITY_CLASS = "kube-cache-seat"

# Names that we write on a placeholder Pod for a copy that is forecast, which is no seat.
AHEAD_LABEL = f"{DOMAIN}/ahead"  # digest of the dataset
AHEAD_DATASET_ANNOTATION = f"{DOMAIN}/ahead-of"
AHEAD_NODE_ANNOTATION = f"{DOMAIN}/ahead-node"  # the node that it is to keep

# The namespace of the seats, and of the Lease that owns them: its holder leads. Nothing else may live there.
SEATS_NAMESPACE = "kube-cache-seats"
LEASE = "kube-cache-operator"
SYSTEM_NAMESPACE = "kube-cache-system"
ADMISSION_CONFIG = "kube-cache-admission"
"""ConfigMap of `SYSTEM_NAMESPACE` with the parameters of the admission policies."""
AGENT_ACCOUNT = "kube-cache-agent"
"""ServiceAccount of the agents, in `SYSTEM_NAMESPACE`."""
PEERS_AUTHORITY = "kube-cache-peers"
"""Name in the certificate of the authority that operators make, and by the chart of its Secret and ConfigMap."""
PEERS_AUDIENCE = "kube-cache-peers"
"""Audience of the token that an agent shows the issuer of certificates, and nobody else takes."""
ISSUER = "kube-cache-issuer.kube-cache-system.svc"
"""Service in front of the operators that issue certificates, and the name in their servers' certificate."""

# The kind Prefetch.
API_VERSION = f"{DOMAIN}/v1alpha1"
PREFETCH_KIND = "Prefetch"
PREFETCHES = f"{API_VERSION}/prefetches"
"""As `kube_cache.kube.client.resource_path` takes a resource that is not of the core."""

# Temporal.
TEMPORAL_NAMESPACE = "kube-cache"
OPERATOR_QUEUE = "kube-cache-operator"
NODE_QUEUE_PREFIX = "kube-cache-node/"
STREAM_SUFFIX = "/stream"
WARM_POD = "WarmPod"
DATASET_ON_NODE = "DatasetOnNode"
RECONCILE = "ReconcileCluster"
RECONCILE_SHARD = "ReconcileShard"
RECONCILE_REQUEST = "ReconcileRequest"
FORMER_RECONCILE = "Reconcile"  # of older builds: its open run is ended, since this build cannot replay it
POD_GROUP = "PodGroup"
STORE_COMMAND = "StoreCommand"
PREFETCH = "Prefetch"
FORECAST = "Forecast"
SCHEDULED_PREFETCH = "ScheduledPrefetch"
RECONCILE_SCHEDULE = "kube-cache-reconcile"
FORECAST_SCHEDULE = "kube-cache-forecast"
CLUSTER_SCHEDULE = "kube-cache-cluster"  # never fires: its memo names the Kubernetes cluster of the namespace
# Generation of `WarmPod`: an open workflow of another generation is not replayed but replaced by a new run.
WARM_POD_GENERATION = 2
GENERATION_MEMO = "generation"
RESOURCE_MEMO = "resource"
"""Of a `Prefetch` that a resource asks for: the resource's uid."""
TRACE_MEMO = "trace_id"
"""Of a `WarmPod`, while traces are sent."""
SPAN_HEADER = "kube-cache-span"
"""Of an activity: the step of its Pod's trace, while traces are sent."""
RECONCILE_ID = "reconcile"  # the schedule adds the time of each run
FORECAST_ID = "forecast"  # as above

# Activities on the operator's queue.
RESOLVE_DATASET = "resolve_dataset"
CREATE_SEAT = "create_seat"
DELETE_SEAT = "delete_seat"
JOIN_DATASET = "join_dataset"
JOIN_GROUP = "join_group"
FIND_GROUP = "find_group"
PATCH_GATE = "patch_gate"
REPORT_PHASE = "report_phase"
READ_POD = "read_pod"
EVICT_POD = "evict_pod"
MOVE_RECEIPT = "move_receipt"
SURVEY_CLUSTER = "survey_cluster"
TELL_WORKFLOWS = "tell_workflows"
PLAN_SHARD = "plan_shard"
SETTLE_NODE = "settle_node"
PLAN_PREFETCH = "plan_prefetch"
MAKE_FORECAST = "make_forecast"
CARRY_OUT_FORECAST = "carry_out_forecast"
PLACE_PLACEHOLDERS = "place_placeholders"
START_PREFETCH = "start_prefetch"

# Activities on a node's queue.
CHECK_DISK = "check_disk"
STREAM_DATASET = "stream_dataset"
UNPIN = "unpin"
EVICT = "evict"
RECONCILE_DISK = "reconcile_disk"
AWAIT_DISK = "await_disk"
PING = "ping"
RUN_STORE_COMMAND = "run_store_command"
HOLD_PREFETCHED = "hold_prefetched"
RELEASE_PREFETCHED = "release_prefetched"

# On a node's disk: the link of a dataset to its newest snapshot, which Pods mount. No prefix may hold such a folder.
CURRENT_LINK = "@current"

_WARM_POD_PREFIX = "warm"
_DATASET_ON_NODE_PREFIX = "dataset"
_POD_GROUP_PREFIX = "group"
_RECONCILE_REQUEST_PREFIX = "reconcile-request"
_PREFETCH_PREFIX = "prefetch"


def node_queue(node: str) -> str:
    """Task queue of the node's agent, for all but downloads: short, so that a busy agent answers."""
    return f"{NODE_QUEUE_PREFIX}{node}"


def node_stream_queue(node: str) -> str:
    """Task queue of the node's agent for downloads, which may fill it."""
    return f"{NODE_QUEUE_PREFIX}{node}{STREAM_SUFFIX}"


class WarmPodId(NamedTuple):
    """Parts of a `WarmPod` workflow id."""

    namespace: str
    pod: str
    uid: str


def warm_pod_id(namespace: str, pod: str, uid: str) -> str:
    """One workflow per Pod and incarnation: none of the parts may hold a slash, and Kubernetes allows none in them."""
    return f"{_WARM_POD_PREFIX}/{namespace}/{pod}/{uid}"


def parse_warm_pod_id(workflow_id: str) -> WarmPodId:
    """Raises ValueError for the id of another workflow."""
    return WarmPodId(*_parts(workflow_id, _WARM_POD_PREFIX))


class DatasetOnNodeId(NamedTuple):
    """Parts of a `DatasetOnNode` workflow id. cache_id: identity of the disk; digest: of the snapshot."""

    node: str
    cache_id: str
    digest: str


def dataset_on_node_id(node: str, cache_id: str, digest: str) -> str:
    """One entity per snapshot and disk: a disk that replaces another has its own cache id, hence other entities."""
    return f"{_DATASET_ON_NODE_PREFIX}/{node}/{cache_id}/{digest}"


def parse_dataset_on_node_id(workflow_id: str) -> DatasetOnNodeId:
    """Raises ValueError for the id of another workflow."""
    return DatasetOnNodeId(*_parts(workflow_id, _DATASET_ON_NODE_PREFIX))


def _parts(workflow_id: str, prefix: str) -> tuple[str, str, str]:
    parts = workflow_id.split("/")
    if len(parts) != 4 or parts[0] != prefix:
        raise ValueError(f"{workflow_id!r} is not a workflow id of the form {prefix}/…/…/…")
    return parts[1], parts[2], parts[3]


def pod_group_id(namespace: str, group: str) -> str:
    """One workflow per group that waits. A group's name holds no slash."""
    return f"{_POD_GROUP_PREFIX}/{namespace}/{group}"


def reconcile_shard_id(run_id: str, shard: int) -> str:
    """One workflow per shard of a run. Nobody parses this id."""
    return f"{RECONCILE_ID}/{run_id}/{shard}"


def reconcile_request_id(node: str) -> str:
    """One workflow per node that asks for a reconcile. A node's name holds no slash."""
    return f"{_RECONCILE_REQUEST_PREFIX}/{node}"


def parse_reconcile_request_id(workflow_id: str) -> str:
    """Return the node. Raises ValueError for the id of another workflow."""
    prefix, _, node = workflow_id.partition("/")
    if prefix != _RECONCILE_REQUEST_PREFIX or not node or "/" in node:
        raise ValueError(f"{workflow_id!r} is not a workflow id of the form {_RECONCILE_REQUEST_PREFIX}/…")
    return node


def store_command_id(node: str, verb: str, unique: str) -> str:
    """One workflow per command that a person types. Nobody parses this id."""
    return f"store/{node}/{verb}/{unique}"


def prefetch_id(namespace: str, name: str) -> str:
    """One workflow per prefetch. It is the owner of what the prefetch keeps on the disks, too."""
    return f"{_PREFETCH_PREFIX}/{namespace}/{name}"


def parse_prefetch_id(workflow_id: str) -> tuple[str, str]:
    """Return namespace and name. Raises ValueError for the id of another workflow."""
    parts = workflow_id.split("/")
    if len(parts) != 3 or parts[0] != _PREFETCH_PREFIX:
        raise ValueError(f"{workflow_id!r} is not a workflow id of the form {_PREFETCH_PREFIX}/…/…")
    return parts[1], parts[2]


def scheduled_prefetch_id(namespace: str, name: str) -> str:
    """Of what a schedule starts; the schedule adds the time. The schedule itself has the id of the prefetch."""
    return f"scheduled-{prefetch_id(namespace, name)}"


def resource_prefetch(name: str, uid: str) -> str:
    """Name of the prefetch that a resource asks for: another one for another resource of the same name."""
    return f"{name}.{uid[:8]}"


def parse_resource_prefetch(prefetch: str) -> str:
    """Return the name of the resource that asks for a prefetch."""
    return prefetch.rpartition(".")[0]


def seat_name(pod_uid: str, number: int) -> str:
    """One seat per Pod and placement attempt. The number tells a re-created seat from a lost one."""
    return f"seat-{pod_uid}-{number}"


def pin_owner(pod_uid: str) -> str:
    """Owner of the pins that a Pod holds in a node's store."""
    return f"pod/{pod_uid}"
