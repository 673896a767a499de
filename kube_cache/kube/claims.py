"""What a Pod's volumes demand of its node, read from its claims and the volumes that they are bound to.

A seat mounts nothing, for claims belong to the Pod's namespace. The topology of bound volumes becomes node affinity of
the seat; what cannot be said so is told in words. Nothing is read for a Pod without claims.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, resource_path
from kube_cache.kube.seat_affinity import MAX_TERMS, count_terms

_STORAGE = "/apis/storage.k8s.io/v1"
# Node labels that the scheduler's plugin VolumeZone compares with a volume's; of a node without any it asks nothing.
_ZONE, _REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
_OLD_ZONE, _OLD_REGION = "failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"
_TOPOLOGY = (_ZONE, _REGION, _OLD_ZONE, _OLD_REGION)
# Drivers get or lose their limits when a node joins or is upgraded, which is seldom.
_LIMITS_KEPT_S = 600


@dataclass
class Demands:
    """What the volumes of one Pod demand."""

    terms: list[list[Json]] = field(default_factory=list)
    """For each demand its alternatives: node selector terms, of which one must match."""
    unreserved: list[str] = field(default_factory=list)
    """What no seat can stand for, in words."""


class Claims:
    """Reads claims. Keeps which drivers limit the volumes of a node; any thread may call."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._limited: frozenset[str] = frozenset()
        self._limited_at: float | None = None

    def demands(self, pod: Json) -> Demands:
        """Read the claims of the Pod. Raises ApiError."""
        found = Demands()
        meta = pod["metadata"]
        for volume in pod["spec"].get("volumes") or []:
            if claim := volume.get("persistentVolumeClaim"):
                self._add(found, meta["namespace"], claim["claimName"])
            elif "ephemeral" in volume:
                self._add(found, meta["namespace"], f"{meta['name']}-{volume['name']}")
        if count_terms(pod, found.terms) > MAX_TERMS:
            found.terms = []
            found.unreserved.append("the volumes may be in more combinations of places than a seat can name")
        return found

    def _add(self, found: Demands, namespace: str, name: str) -> None:
        claim = self._find(f"{resource_path('persistentvolumeclaims', namespace)}/{name}")
        if claim is None:
            found.unreserved.append(f"the claim {name} does not exist, and no Pod with it is scheduled until it does")
            return
        spec = claim["spec"]
        if "deletionTimestamp" in claim["metadata"]:
            found.unreserved.append(f"the claim {name} is being deleted, and no Pod with it is scheduled")
        if "ReadWriteOncePod" in (spec.get("accessModes") or []):
            found.unreserved.append(f"the claim {name} is for one Pod at a time, and no seat can take that turn")
        if not spec.get("volumeName"):
            found.unreserved.append(self._unbound(name, spec.get("storageClassName") or ""))
            return
        volume = self._find(f"{resource_path('persistentvolumes')}/{spec['volumeName']}")
        if volume is None:
            found.unreserved.append(f"the volume {spec['volumeName']} of the claim {name} does not exist")
            return
        found.terms += topology(volume)
        driver = (volume["spec"].get("csi") or {}).get("driver")
        if driver and driver in self._drivers_with_limit():
            found.unreserved.append(
                f"the claim {name} takes one of the places that {driver} has on a node, and no seat can hold one"
            )

    def _unbound(self, name: str, class_name: str) -> str:
        storage = self._find(f"{_STORAGE}/storageclasses/{class_name}") if class_name else None
        if storage is not None and storage.get("volumeBindingMode") == "WaitForFirstConsumer":
            return f"the claim {name} gets its volume where its Pod is scheduled, and no seat can stand for that"
        return f"the claim {name} is not bound to a volume, and no Pod with it is scheduled until it is"

    def _drivers_with_limit(self) -> frozenset[str]:
        """Names of CSI drivers of which some node takes a limited number of volumes."""
        if self._limited_at is None or time.monotonic() - self._limited_at > _LIMITS_KEPT_S:
            self._limited = frozenset(self._list_drivers_with_limit())
            self._limited_at = time.monotonic()
        return self._limited

    def _list_drivers_with_limit(self) -> set[str]:
        drivers: set[str] = set()
        query = {"limit": "500"}
        while True:
            page = self._client.request("GET", f"{_STORAGE}/csinodes", query=query)
            for node in page.get("items") or []:
                for driver in node["spec"].get("drivers") or []:
                    if (driver.get("allocatable") or {}).get("count") is not None:
                        drivers.add(driver["name"])
            more = page["metadata"].get("continue")
            if not more:
                return drivers
            query = {**query, "continue": more}

    def _find(self, path: str) -> Json | None:
        try:
            return self._client.request("GET", path)
        except ApiError as error:
            if is_not_found(error):
                return None
            raise


def topology(volume: Json) -> list[list[Json]]:
    """Return what the volume demands of its node: its node affinity, and its labels of zone and region."""
    demands: list[list[Json]] = []
    required = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms")
    if required:
        demands.append(required)
    labels = volume["metadata"].get("labels") or {}
    here = [_one_of(key, labels[key]) for key in _TOPOLOGY if key in labels]
    if here:
        nowhere = [{"key": key, "operator": "DoesNotExist"} for key in _TOPOLOGY]
        demands.append([{"matchExpressions": here}, {"matchExpressions": nowhere}])
    return demands


def _one_of(key: str, value: str) -> Json:
    return {"key": key, "operator": "In", "values": value.split("__")}
