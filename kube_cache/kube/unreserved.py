"""What a Pod needs of its node and a seat cannot stand for, read from the Pod's spec.

With any of it a Pod must not be tied to the seat's node, where it might never run, but only prefer it. Volumes that are
claimed are told by `kube_cache.kube.claims`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kube_cache.kube.client import Json

# Volumes without a claim of which the scheduler's plugin VolumeRestrictions keeps two Pods off one node.
_EXCLUSIVE = ("gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd")


def unreserved(pod: Json) -> list[str]:
    """One clause for each thing, for a sentence that begins with what follows from it."""
    return list(_clauses(pod["spec"]))


def _clauses(spec: Json) -> Iterator[str]:
    for claim in spec.get("resourceClaims") or []:
        yield f"the resource claim {claim['name']} gets its devices where its Pod is scheduled"
    if group := (spec.get("schedulingGroup") or {}).get("podGroupName"):
        yield f"the Pods of the PodGroup {group} are scheduled together, and no seat is one of them"
    for volume in spec.get("volumes") or []:
        if any(kind in volume for kind in _EXCLUSIVE):
            yield f"the volume {volume['name']} is for one Pod on a node, and no seat can hold it"
    # The scheduler asks these of nodes that declare their features (NodeDeclaredFeatures), by fields of the Pod.
    if spec.get("hostNetwork") and spec.get("hostUsers") is False:
        yield "the host's network with users of its own needs a node that declares it"
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    rules = [rule for container in containers for rule in container.get("restartPolicyRules") or []]
    if any(rule.get("action") == "RestartAllContainers" for rule in rules):
        yield "a restart of all containers needs a node that declares it"
    mounts = [mount for container in containers for mount in container.get("volumeMounts") or []]
    if any(mount.get("bindMountOptions") for mount in mounts):
        yield "options of bind mounts need a node that declares them"
