"""Every name that other systems see: annotations, gates, queues, workflow ids.

A name lives here once, so that a rename is one line and a grep. No logic beyond composing a name and taking it apart again.
Search attributes, which need Temporal's types, are in `kube_cache.temporal.search_attributes`.
"""

from __future__ import annotations

from typing import NamedTuple

DOMAIN = "kube-cache.openai.com"

# What users write on a Pod.
DATASET_ANNOTATION = "x-openai/required-dataset"
GATE = f"{DOMAIN}/gate"
MAX_GATE_TIME_ANNOTATION = f"{DOMAIN}/max-gate-time"
ON_TIMEOUT_ANNOTATION = f"{DOMAIN}/on-timeout"
PRIORITY_ANNOTATION = f"{DOMAIN}/priority"
ACTION_ANNOTATION = f"{DOMAIN}/action"
VERIFY_ANNOTATION = f"{DOMAIN}/verify"

# What we write on a Pod.
CONDITION = f"{DOMAIN}/DatasetReady"
SNAPSHOT_ANNOTATION = f"{DOMAIN}/snapshot"
NODE_ANNOTATION = f"{DOMAIN}/node"
MANAGED_LABEL = f"{DOMAIN}/managed"
CACHE_ID_ANNOTATION = f"{DOMAIN}/cache-id"
FIELD_MANAGER = "kube-cache"
REPORTING_CONTROLLER = DOMAIN

# What we write on a seat (the placeholder Pod that holds a node for a gated Pod).
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

# On a node's disk: the link of a dataset to its newest snapshot, which Pods mount. No prefix may hold a folder of this name.
CURRENT_LINK = "@current"


def node_queue(node: str) -> str:
    return f"{NODE_QUEUE_PREFIX}{node}"


class WarmPodId(NamedTuple):
    namespace: str
    pod: str
    uid: str


def warm_pod_id(namespace: str, pod: str, uid: str) -> str:
    return f"warm/{namespace}/{pod}/{uid}"


def parse_warm_pod_id(workflow_id: str) -> WarmPodId:
    """Raises ValueError for the id of another workflow."""
    _, namespace, pod, uid = workflow_id.split("/")
    return WarmPodId(namespace, pod, uid)


class DatasetOnNodeId(NamedTuple):
    node: str
    cache_id: str
    digest: str


def dataset_on_node_id(node: str, cache_id: str, digest: str) -> str:
    return f"dataset/{node}/{cache_id}/{digest}"


def parse_dataset_on_node_id(workflow_id: str) -> DatasetOnNodeId:
    """Raises ValueError for the id of another workflow."""
    _, node, cache_id, digest = workflow_id.split("/")
    return DatasetOnNodeId(node, cache_id, digest)


def seat_name(pod_uid: str, number: int) -> str:
    """One seat per Pod and placement attempt; the number makes a re-created seat distinguishable from a lost one."""
    return f"seat-{pod_uid}-{number}"


def pin_owner(pod_uid: str) -> str:
    """Owner of the pins that a Pod holds in a node's store."""
    return f"pod/{pod_uid}"
