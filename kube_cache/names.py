"""Every name that other systems see: annotations, gates, queues, workflow ids, search attributes.

A name lives here once, so that a rename is one line and a grep. No logic beyond composing a name.
"""

from __future__ import annotations

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

# Activities. The first seven and the last two run on the operator's queue, the others on a node's.
RESOLVE_DATASET = "resolve_dataset"
CREATE_SEAT = "create_seat"
DELETE_SEAT = "delete_seat"
JOIN_DATASET = "join_dataset"
PATCH_GATE = "patch_gate"
REPORT_PHASE = "report_phase"
PUBLISH_PROGRESS = "publish_progress"
CHECK_DISK = "check_disk"
STREAM_DATASET = "stream_dataset"
UNPIN = "unpin"
EVICT = "evict"
RECONCILE_DISK = "reconcile_disk"
AWAIT_DISK = "await_disk"
STORE_COMMAND_ACTIVITY = "store_command"
SURVEY = "survey"
BOUND_PODS = "bound_pods"

# Search attributes and their Temporal types. Registered by temporal-dev.yaml and by the dev stack; a test compares them.
SEARCH_ATTRIBUTES = {
    "KcPhase": "Keyword",
    "KcNode": "Keyword",
    "KcDataset": "Keyword",
    "KcPodNamespace": "Keyword",
    "KcPod": "Keyword",
    "KcBytes": "Int",
}


def node_queue(node: str) -> str:
    return f"{NODE_QUEUE_PREFIX}{node}"


def warm_pod_id(namespace: str, pod: str, uid: str) -> str:
    return f"warm/{namespace}/{pod}/{uid}"


def dataset_on_node_id(node: str, cache_id: str, digest: str) -> str:
    return f"dataset/{node}/{cache_id}/{digest}"


def seat_name(pod_uid: str, number: int) -> str:
    """One seat per Pod and placement attempt; the number makes a re-created seat distinguishable from a lost one."""
    return f"seat-{pod_uid}-{number}"
