"""What a Pod's volumes demand: bound ones their topology, and all that no seat can stand for a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.claims import Claims, topology
from kube_cache.kube.client import ApiError

ZONE = "topology.kubernetes.io/zone"
IN_A = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["a"]}]}]
CLAIMS, VOLUMES = "/api/v1/namespaces/ml/persistentvolumeclaims", "/api/v1/persistentvolumes"
STORAGE = "/apis/storage.k8s.io/v1"


class Api:
    """Answers GET from a table and counts the requests."""

    def __init__(self, **objects: dict[str, Any]) -> None:
        limited = {"name": "limited.example", "allocatable": {"count": 25}}
        self.objects: dict[str, Any] = {
            f"{STORAGE}/csinodes": {
                "metadata": {},
                "items": [{"spec": {"drivers": [limited, {"name": "shared.example"}]}}, {"spec": {"drivers": None}}],
            },
            f"{STORAGE}/storageclasses/late": {"volumeBindingMode": "WaitForFirstConsumer"},
            f"{STORAGE}/storageclasses/now": {"volumeBindingMode": "Immediate"},
        }
        self.asked: list[str] = []

    def request(self, method: str, path: str, **_: Any) -> Any:
        self.asked.append(path)
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return self.objects[path]

    def bound(self, name: str, *, driver: str = "shared.example", modes: tuple[str, ...] = (), **meta: Any) -> None:
        self.objects[f"{CLAIMS}/{name}"] = {"metadata": meta, "spec": {"volumeName": f"v-{name}", "accessModes": modes}}
        spec = {"csi": {"driver": driver}, "nodeAffinity": {"required": {"nodeSelectorTerms": IN_A}}}
        self.objects[f"{VOLUMES}/v-{name}"] = {"metadata": {}, "spec": spec}

    def unbound(self, name: str, storage: str) -> None:
        self.objects[f"{CLAIMS}/{name}"] = {"metadata": {}, "spec": {"storageClassName": storage}}


@pytest.fixture
def api() -> Api:
    return Api()


def demands(api: Api, *volumes: dict[str, Any]) -> Any:
    pod = {"metadata": {"namespace": "ml", "name": "one"}, "spec": {"volumes": [{"name": "v", **v} for v in volumes]}}
    return Claims(api).demands(pod)  # type: ignore[arg-type]


def claimed(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name}}


def test_nothing_is_read_for_a_pod_without_claims(api: Api) -> None:
    found = demands(api, {"emptyDir": {}}, {"hostPath": {"path": "/x"}})
    assert (found.terms, found.unreserved, api.asked) == ([], [], [])


def test_a_bound_volumes_topology_is_demanded_of_the_node(api: Api) -> None:
    api.bound("data")
    found = demands(api, claimed("data"))
    assert (found.terms, found.unreserved) == ([IN_A], [])


def test_a_generic_ephemeral_volume_is_the_claim_that_is_made_of_it(api: Api) -> None:
    api.bound("one-v")
    assert demands(api, {"ephemeral": {}}).terms == [IN_A]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("absent", "the claim absent does not exist", id="no claim"),
        pytest.param("late", "gets its volume where its Pod is scheduled", id="waits for its first consumer"),
        pytest.param("now", "is not bound to a volume", id="unbound"),
        pytest.param("plain", "is not bound to a volume", id="unbound, of no class"),
        pytest.param("one-pod", "is for one Pod at a time", id="ReadWriteOncePod"),
        pytest.param("going", "is being deleted", id="being deleted"),
        pytest.param("counted", "one of the places that limited.example has on a node", id="limited in number"),
        pytest.param("lost", "the volume v-lost of the claim lost does not exist", id="no volume"),
    ],
)
def test_what_no_seat_can_stand_for_is_told(api: Api, name: str, words: str) -> None:
    api.unbound("late", "late")
    api.unbound("now", "now")
    api.unbound("plain", "")
    api.bound("one-pod", modes=("ReadWriteOncePod",))
    api.bound("going", deletionTimestamp="2026-01-01T00:00:00Z")
    api.bound("counted", driver="limited.example")
    api.bound("lost")
    del api.objects[f"{VOLUMES}/v-lost"]
    (said,) = demands(api, claimed(name)).unreserved
    assert words in said


def test_more_combinations_than_a_seat_can_name_are_told(api: Api) -> None:
    names = [f"data-{number}" for number in range(7)]
    for name in names:
        api.bound(name)
        api.objects[f"{VOLUMES}/v-{name}"]["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"] = [*IN_A, *IN_A]
    found = demands(api, *map(claimed, names))
    assert found.terms == []
    assert "more combinations of places" in found.unreserved[0]
    assert len(demands(api, *map(claimed, names[:6])).terms) == 6


def test_the_drivers_with_a_limit_are_listed_once_for_many_pods(api: Api) -> None:
    api.bound("data")
    claims = Claims(api)  # type: ignore[arg-type]
    pod = {"metadata": {"namespace": "ml", "name": "one"}, "spec": {"volumes": [{"name": "v", **claimed("data")}]}}
    for _ in range(3):
        claims.demands(pod)
    assert api.asked.count(f"{STORAGE}/csinodes") == 1


def test_labels_of_a_volume_are_asked_of_nodes_that_have_any() -> None:
    (alternatives,) = topology({"metadata": {"labels": {ZONE: "a__b"}}, "spec": {}})
    labelled, without = alternatives
    assert labelled == {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["a", "b"]}]}
    assert {expression["operator"] for expression in without["matchExpressions"]} == {"DoesNotExist"}
