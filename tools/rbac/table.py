"""The rights of the operator, one a line: who uses it, for what, and which test fails without it.

A test compares this table with the Roles that are shipped, so that a right without a line cannot be shipped. Each of
the tests runs the product's own code with the operator's account against a real API server.
"""

from __future__ import annotations

from typing import NamedTuple

from kube_cache import names

CLUSTER = ""
PEERS = "kube-cache-peers"
"""Role that the chart has where nodes feed each other (`peers.enabled`), and the one Secret that it is about."""


class Right(NamedTuple):
    role: str
    namespace: str
    """Where it holds; CLUSTER for a ClusterRole."""
    group: str
    resource: str
    """Plural, with its subresource."""
    verb: str
    name: str = ""
    """The only object that it holds for; empty = all."""


class Line(NamedTuple):
    right: Right
    used_by: str
    """File of the product."""
    why: str
    test: str
    """`file::name`; a parametrized test with one of its ids."""


def _cluster(group: str, resource: str, verb: str, used_by: str, why: str, test: str, name: str = "") -> Line:
    return Line(Right("kube-cache-operator", CLUSTER, group, resource, verb, name), used_by, why, f"tests/kube/{test}")


def _system(group: str, resource: str, verb: str, name: str, used_by: str, why: str, test: str) -> Line:
    right = Right("kube-cache-admission", "kube-cache-system", group, resource, verb, name)
    return Line(right, used_by, why, f"tests/kube/{test}")


def _seats(group: str, resource: str, verb: str, used_by: str, why: str, test: str, name: str = "") -> Line:
    right = Right("kube-cache-seats", "kube-cache-seats", group, resource, verb, name)
    return Line(right, used_by, why, f"tests/kube/{test}")


def _peers(group: str, resource: str, verb: str, used_by: str, why: str, test: str) -> Line:
    return Line(Right(PEERS, CLUSTER, group, resource, verb), used_by, why, f"tests/kube/{test}")


def _authority(resource: str, verb: str, why: str) -> Line:
    right = Right(PEERS, "kube-cache-system", "", resource, verb, PEERS)
    test = "tests/kube/test_authority_secret.py::test_the_authority_is_made_and_told_to_agents"
    return Line(right, "kube_cache/kube/authority_secret.py", f"{why}; only with `peers.enabled`", test)


_NODES, _CLAIMS, _LEASE = "watcher/nodes.py", "kube_cache/kube/claims.py", "kube_cache/kube/lease.py"
_PREFETCHES = "kube_cache/kube/prefetches.py"
_LEASE_TEST = "test_rights.py::test_the_lead_is_taken_and_given_back"

LINES: tuple[Line, ...] = (
    _cluster("", "pods", "get", "kube_cache/kube/gate.py", "reads a Pod before it is released, and its seat", "test_gate.py::test_a_released_pod_is_bound_to_the_node_with_its_receipt"),
    _cluster("", "pods", "list", "activities/cluster/survey.py", "compares Pods with workflows, judges the peers of a Pod", "test_rights.py::test_pods_are_listed"),
    _cluster("", "pods", "watch", "kube_cache/kube/reflector.py", "hears of Pods that come, change and go", "test_rights.py::test_changes_are_watched[pods]"),
    _cluster("", "pods", "patch", "kube_cache/kube/gate.py", "removes our gate, pins the Pod, writes the receipt", "test_gate.py::test_a_released_pod_is_bound_to_the_node_with_its_receipt"),
    _cluster("", "pods/status", "patch", "kube_cache/kube/conditions.py", "writes the condition and the line in `kubectl describe`", "test_conditions.py::test_our_condition_leaves_the_schedulers_alone"),
    _cluster("", "pods/eviction", "create", "kube_cache/kube/eviction.py", "evicts a stuck Pod whose annotation asks for that", "test_eviction.py::test_a_stuck_pod_of_a_controller_is_evicted_once_and_told"),
    _cluster("events.k8s.io", "events", "create", "kube_cache/kube/events.py", "tells what happens to a Pod", "test_events.py::test_the_same_event_twice_is_one"),
    _cluster("", "nodes", "get", _NODES, "looks at a node that the watch does not have yet", "test_rights.py::test_a_node_that_the_watch_does_not_have_is_read"),
    _cluster("", "nodes", "list", _NODES, "knows the nodes on which Pods may be placed", "test_rights.py::test_nodes_are_listed"),
    _cluster("", "nodes", "watch", _NODES, "hears of nodes that turn unfit or go", "test_rights.py::test_changes_are_watched[nodes]"),
    _cluster("", "namespaces", "list", "kube_cache/kube/placement/listing.py", "knows whom a `namespaceSelector` in a Pod's affinity means", "test_rights.py::test_namespaces_are_found_by_their_labels"),
    _cluster("", "namespaces", "get", "kube_cache/temporal/cluster.py", "tells this cluster from others in Temporal", "test_rights.py::test_the_cluster_is_known_by_its_system_namespace", name="kube-system"),
    _cluster("", "namespaces", "get", "kube_cache/kube/seat_priority.py", "makes the seats' namespace the owner of their priority classes", "test_rights.py::test_a_priority_class_is_made_for_seats", name="kube-cache-seats"),
    _cluster("", "persistentvolumeclaims", "get", _CLAIMS, "finds the volumes of a Pod with claims", "test_rights.py::test_a_seat_goes_to_the_zone_of_its_pods_volume"),
    _cluster("", "persistentvolumes", "get", _CLAIMS, "places a Pod in the zone of its volumes", "test_rights.py::test_a_seat_goes_to_the_zone_of_its_pods_volume"),
    _cluster("storage.k8s.io", "storageclasses", "get", _CLAIMS, "knows claims that are bound only with their Pod", "test_rights.py::test_a_claim_that_waits_for_its_pod_is_told"),
    _cluster("storage.k8s.io", "csinodes", "list", _CLAIMS, "knows drivers that limit the volumes of a node", "test_rights.py::test_a_seat_goes_to_the_zone_of_its_pods_volume"),
    _cluster("scheduling.k8s.io", "priorityclasses", "create", "kube_cache/kube/seat_priority.py", "gives a seat its Pod's priority without preemption", "test_rights.py::test_a_priority_class_is_made_for_seats"),
    _cluster(names.DOMAIN, "prefetches", "get", _PREFETCHES, "looks once more before a workflow ends whose resource seems gone", "test_prefetches.py::test_a_resource_is_read"),
    _cluster(names.DOMAIN, "prefetches", "list", _PREFETCHES, "knows the prefetches that are resources", "test_prefetches.py::test_resources_are_listed"),
    _cluster(names.DOMAIN, "prefetches", "watch", "watcher/prefetches.py", "hears of prefetches that come, change and go", "test_prefetches.py::test_resources_are_watched"),
    _cluster(names.DOMAIN, "prefetches/status", "patch", _PREFETCHES, "writes how far a prefetch is", "test_prefetches.py::test_a_status_is_written_once_and_never_over_a_newer_specification"),
    _peers("authentication.k8s.io", "tokenreviews", "create", "kube_cache/kube/token_reviews.py", "knows which agent asks for a certificate; only with `peers.enabled`", "test_issued.py::test_an_agent_gets_the_certificate_of_the_node_that_its_token_names"),
    _authority("secrets", "get", "reads the authority of nodes that feed each other"),
    _authority("secrets", "update", "keeps the authority that it has made"),
    _authority("configmaps", "get", "sees whether agents are told the authority's certificate"),
    _authority("configmaps", "update", "tells agents the authority's certificate"),
    _system("", "configmaps", "get", "kube-cache-admission", "kube_cache/kube/allowed_datasets.py", "reads which datasets a namespace may name", "test_rights.py::test_the_allowed_datasets_are_read"),
    _seats("", "pods", "create", "kube_cache/kube/seats.py", "makes seats, and placeholder Pods for copies that are forecast", "test_seats.py::test_a_seat_stays_away_from_excluded_nodes"),
    _seats("", "pods", "delete", "kube_cache/kube/seats.py", "deletes seats and placeholder Pods", "test_rights.py::test_a_seat_is_deleted"),
    _seats("coordination.k8s.io", "leases", "create", _LEASE, "makes the Lease of the operators", "test_rights.py::test_the_lease_is_made"),
    _seats("coordination.k8s.io", "leases", "get", _LEASE, "knows which operator leads", _LEASE_TEST, name="kube-cache-operator"),
    _seats("coordination.k8s.io", "leases", "update", _LEASE, "takes, renews and gives back the lead", _LEASE_TEST, name="kube-cache-operator"),
)  # fmt: skip
