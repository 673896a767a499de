"""Every name that other systems see: annotations, gates, queues, workflow ids.

A name lives here once, so that a rename is one line and a grep. No logic beyond composing a name and parsing it again.
Search attributes, which need Temporal's types, are in `kube_cache.temporal.search_attributes`; signals and queries are
the methods of the workflows.
"""

from __future__ import annotations

from typing import NamedTuple

DOMAIN = "kube-cache.openai.com"

# Names that users write on a Pod.
DATASET_ANNOTATION = "x-openai/required-dataset"
GATE = f"{DOMAIN}/gate"
MAX_GATE_TIME_ANNOTATION = f"{DOMAIN}/max-gate-time"
ON_TIMEOUT_ANNOTATION = f"{DOMAIN}/on-timeout"
PRIORITY_ANNOTATION = f"{DOMAIN}/priority"
ACTION_ANNOTATION = f"{DOMAIN}/action"
VERIFY_ANNOTATION = f"{DOMAIN}/verify"

# Names that we write on a Pod.
CONDITION = f"{DOMAIN}/DatasetReady"
SNAPSHOT_ANNOTATION = f"{DOMAIN}/snapshot"
NODE_ANNOTATION = f"{DOMAIN}/node"
MANAGED_LABEL = f"{DOMAIN}/managed"
CACHE_ID_ANNOTATION = f"{DOMAIN}/cache-id"
FIELD_MANAGER = "kube-cache"
REPORTING_CONTROLLER = DOMAIN

# Names that we write on a seat (the placeholder Pod that holds a node for a gated Pod).
SEAT_LABEL = f"{DOMAIN}/seat"
SEAT_WORKFLOW_ANNOTATION = f"{DOMAIN}/workflow-id"
SEAT_PRIORITY_CLASS = "kube-cache-seat"

# Temporal.
TEMPORAL_NAMESPACE = "kube-cache"
OPERATOR_QUEUE = "kube-cache-operator"
NODE_QUEUE_PREFIX = "kube-cache-node/"
WARM_POD = "WarmPod"
DATASET_ON_NODE = "DatasetOnNode"
RECONCILE = "Reconcile"
STORE_COMMAND = "StoreCommand"
RECONCILE_SCHEDULE = "kube-cache-reconcile"
RECONCILE_ID = "reconcile"  # the schedule adds the time of each run

# Activities on the operator's queue.
RESOLVE_DATASET = "resolve_dataset"
CREATE_SEAT = "create_seat"
DELETE_SEAT = "delete_seat"
JOIN_DATASET = "join_dataset"
PATCH_GATE = "patch_gate"
REPORT_PHASE = "report_phase"
PUBLISH_PROGRESS = "publish_progress"
COLLECT_CLUSTER_STATE = "collect_cluster_state"
FIND_BOUND_PODS = "find_bound_pods"

# Activities on a node's queue.
CHECK_DISK = "check_disk"
STREAM_DATASET = "stream_dataset"
UNPIN = "unpin"
EVICT = "evict"
RECONCILE_DISK = "reconcile_disk"
AWAIT_DISK = "await_disk"
RUN_STORE_COMMAND = "run_store_command"

# On a node's disk: the link of a dataset to its newest snapshot, which Pods mount. No prefix may hold such a folder.
CURRENT_LINK = "@current"

_WARM_POD_PREFIX = "warm"
_DATASET_ON_NODE_PREFIX = "dataset"


def node_queue(node: str) -> str:
    """Task queue of the node's agent."""
    return f"{NODE_QUEUE_PREFIX}{node}"


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


def store_command_id(node: str, verb: str, unique: str) -> str:
    """One workflow per command that a person types. Nobody parses this id."""
    return f"store/{node}/{verb}/{unique}"


def seat_name(pod_uid: str, number: int) -> str:
    """One seat per Pod and placement attempt. The number tells a re-created seat from a lost one."""
    return f"seat-{pod_uid}-{number}"


def pin_owner(pod_uid: str) -> str:
    """Owner of the pins that a Pod holds in a node's store."""
    return f"pod/{pod_uid}"
