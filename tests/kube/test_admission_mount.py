"""From the annotation alone a Pod gets gate, mount and variables; what is written by hand stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kube_cache import names
from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import DatasetNotAllowed
from kube_cache.kube.allowed_datasets import AllowedDatasets
from kube_cache.kube.client import KubeClient
from kube_cache.kube.mounts import DEFAULT_ROOT, Verdict, judge
from tests.kube.admission import CONTAINER, Admission, admission, pod
from tests.kube.mount_cases import CURRENT, CURRENT_BY_HAND, DATASETS
from tools.stack import Stack
from tools.stack.api import ApiError, Document
from tools.stack.pods import UID_VARIABLE, VOLUME, gates, mount
from tools.stack.waiting import true as until

URI = "s3://models/gpt"


@pytest.fixture(scope="module")
def api(kube: Stack) -> Admission:
    return admission(kube)


def places(container: Document) -> dict[str, str]:
    """Path in the container to sub-path, of the mounts of the cache."""
    return {
        item["mountPath"]: item["subPathExpr"]
        for item in container.get("volumeMounts", [])
        if item["name"] == "kube-cache"
    }


def values(container: Document) -> dict[str, str]:
    """Variables with a value of their own."""
    return {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


def without_token(item: Document) -> Document:
    """The Pod without what the API server adds under a random name."""
    changed = copy.deepcopy(item)
    for key in ("uid", "creationTimestamp", "managedFields"):
        changed["metadata"].pop(key, None)
    spec = changed["spec"]
    spec["volumes"] = [volume for volume in spec.get("volumes", []) if "projected" not in volume]
    for container in spec["containers"]:
        mounts = container.get("volumeMounts", [])
        container["volumeMounts"] = [item for item in mounts if "serviceaccount" not in item["mountPath"]]
    return changed


def test_the_annotation_alone_gates_and_mounts(api: Admission) -> None:
    admitted = api.admit(pod(URI))
    assert gates(admitted) == [names.GATE]
    assert names.MANAGED_LABEL not in admitted["metadata"].get("labels", {})
    assert judge(admitted, DEFAULT_ROOT, URI) == Verdict()
    (container,) = admitted["spec"]["containers"]
    assert places(container) == {"/kube-cache/0": "pods/$(POD_UID)/0"}
    assert values(container) == {"KUBE_CACHE_DATASET": "/kube-cache/0", "KUBE_CACHE_DATASET_0": "/kube-cache/0"}


def test_each_dataset_is_mounted_in_each_container(api: Admission) -> None:
    sidecar = {**CONTAINER, "name": "sidecar", "restartPolicy": "Always"}
    containers = [CONTAINER, {**CONTAINER, "name": "second"}]
    admitted = api.admit(pod(f"{URI}, gs://corpus", containers=containers, initContainers=[sidecar]))
    assert judge(admitted, DEFAULT_ROOT, f"{URI}, gs://corpus") == Verdict()
    for container in [*admitted["spec"]["containers"], *admitted["spec"]["initContainers"]]:
        assert places(container) == {f"/kube-cache/{n}": f"pods/$(POD_UID)/{n}" for n in (0, 1)}
        assert values(container)["KUBE_CACHE_DATASET_1"] == "/kube-cache/1"
        assert all(item["readOnly"] for item in container["volumeMounts"])


def test_what_the_container_has_stays_and_may_refer_to_our_variables(api: Admission) -> None:
    own = [{"name": "WEIGHTS", "value": "$(KUBE_CACHE_DATASET)/model"}, {"name": "KUBE_CACHE_DATASET_0", "value": "x"}]
    tmp = {"name": "tmp", "mountPath": "/tmp"}
    container = {**CONTAINER, "env": own, "volumeMounts": [tmp]}
    admitted = api.admit(
        pod(
            URI,
            containers=[container],
            volumes=[{"name": "tmp", "emptyDir": {}}],
            schedulingGates=[{"name": "a.example/first"}],
        )
    )
    assert set(gates(admitted)) == {"a.example/first", names.GATE}
    (container,) = admitted["spec"]["containers"]
    assert [item["name"] for item in container["env"]] == [
        "POD_UID",
        "KUBE_CACHE_DATASET",
        "WEIGHTS",
        "KUBE_CACHE_DATASET_0",
    ]
    assert values(container)["KUBE_CACHE_DATASET_0"] == "x"
    assert tmp in container["volumeMounts"]


def test_a_pod_that_was_admitted_once_is_left_alone(api: Admission) -> None:
    """So it is when the policy is invoked again, after another webhook."""
    once = without_token(api.admit(pod(f"{URI},gs://corpus")))
    assert without_token(api.admit(once)) == once


def test_a_container_that_comes_later_gets_its_mounts_too(api: Admission) -> None:
    once = without_token(api.admit(pod(URI)))
    once["spec"]["containers"].append({**CONTAINER, "name": "injected"})
    twice = api.admit(once)
    assert [places(container) for container in twice["spec"]["containers"]] == [
        {"/kube-cache/0": "pods/$(POD_UID)/0"}
    ] * 2
    assert judge(twice, DEFAULT_ROOT, URI) == Verdict()


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {
                "volumes": [VOLUME],
                "containers": [
                    {**CONTAINER, "env": [UID_VARIABLE], "volumeMounts": [mount(0)]},
                    {"name": "b", "image": "x"},
                ],
            },
            id="the README's form",
        ),
        pytest.param(
            {
                "volumes": [{"name": "w", "hostPath": {"path": CURRENT, "type": "Directory"}}],
                "containers": [{**CONTAINER, "volumeMounts": [{"name": "w", "mountPath": "/w", "readOnly": True}]}],
            },
            id="@current",
        ),
    ],
)
def test_who_mounts_by_hand_gets_the_gate_only(api: Admission, spec: dict[str, Any]) -> None:
    assert CURRENT_BY_HAND
    admitted = without_token(api.admit(pod(DATASETS, **spec)))
    assert gates(admitted) == [names.GATE]
    assert admitted["spec"]["volumes"] == spec["volumes"]
    for container, written in zip(admitted["spec"]["containers"], spec["containers"], strict=True):
        assert [item["name"] for item in container.get("env", [])] == [item["name"] for item in written.get("env", [])]
        assert container["volumeMounts"] == written.get("volumeMounts", [])


def test_a_gate_written_by_hand_is_there_once(api: Admission) -> None:
    assert gates(api.admit(pod(URI, schedulingGates=[{"name": names.GATE}]))) == [names.GATE]


OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "x", "uid": "1", "controller": True}


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(pod(), id="no annotation"),
        pytest.param(pod(URI, nodeName="gpu-1"), id="its node is named"),
        pytest.param(pod(URI) | {"metadata": {**pod(URI)["metadata"], "ownerReferences": [OWNER]}}, id="a DaemonSet's"),
        pytest.param(pod(URI) | {"metadata": {**pod(URI)["metadata"], "namespace": "kube-cache-system"}}, id="ours"),
        pytest.param(pod(URI) | {"metadata": {**pod(URI)["metadata"], "namespace": "kube-system"}}, id="the system's"),
    ],
)
def test_other_pods_are_left_alone(kube: Stack, api: Admission, item: Document) -> None:
    kube.cluster.wait_namespace(item["metadata"]["namespace"])
    admitted = api.admit(item)
    assert gates(admitted) == []
    assert "kube-cache" not in [volume["name"] for volume in admitted["spec"].get("volumes", [])]


def test_an_exempt_namespace_is_left_alone(kube: Stack, api: Admission) -> None:
    kube.cluster.create_namespace("exempt", exempt=True)
    item = pod("no dataset at all")
    item["metadata"]["namespace"] = "exempt"
    assert gates(api.admit(item)) == []


class TestParameters:
    """Of the ConfigMap; a change is in effect a moment later."""

    @pytest.fixture(autouse=True)
    def _restored(self, kube: Stack, api: Admission) -> Any:
        self.api, self.kube = api, kube
        path = "/api/v1/namespaces/kube-cache-system/configmaps/kube-cache-admission"
        self.data = kube.api.get(path)["data"]
        self.path = path
        yield
        self.write(dict.fromkeys(set(kube.api.get(path)["data"]) - set(self.data)) | self.data)
        until(lambda: self.mounted_at("/kube-cache/0"), "restored")
        until(lambda: not api.refusal(pod("gs://corpus")), "restored")

    def write(self, data: dict[str, Any]) -> None:
        self.kube.api.request("PATCH", self.path, {"data": data}, content_type="application/merge-patch+json")

    def mounted_at(self, path: str) -> Document | None:
        """The Pod as admitted, if its dataset is mounted there.

        The policies hear of a change one after the other; between two of them a Pod may be refused.
        """
        try:
            admitted = self.api.admit(pod(URI))
        except ApiError:
            return None
        return admitted if places(admitted["spec"]["containers"][0]).keys() == {path} else None

    def test_root_and_place_are_the_administrators(self) -> None:
        self.write({"cacheRoot": "/mnt/k8s-disks/0/cache/", "mountPath": "/data"})
        admitted = until(lambda: self.mounted_at("/data/0"), "in effect")
        assert judge(admitted, "/mnt/k8s-disks/0/cache", URI) == Verdict()
        assert values(admitted["spec"]["containers"][0])["KUBE_CACHE_DATASET"] == "/data/0"
        writer = {**CONTAINER, "volumeMounts": [{"name": "x", "mountPath": "/x"}]}
        volume = {"name": "x", "hostPath": {"path": "/mnt/k8s-disks/0/cache/objects"}}
        assert "could change it" in self.api.refusal(pod(containers=[writer], volumes=[volume]))

    def test_only_the_listed_namespaces_are_served(self) -> None:
        self.write({"namespaces": "training, serving"})
        until(lambda: gates(self.api.admit(pod(URI))) == [], "in effect")
        self.write({"namespaces": "training ml"})
        until(lambda: gates(self.api.admit(pod(URI))) == [names.GATE], "in effect")

    def test_a_namespace_names_only_datasets_that_it_may_read(self, kube_client: KubeClient) -> None:
        self.write({"allowedDatasets": "s3://models/gpt, gs://corpus/"})
        words = until(lambda: self.api.refusal(pod("s3://models/other")), "in effect")
        assert "namespace ml may not name s3://models/other/; allowed are s3://models/gpt/, gs://corpus/" in words
        for good in (URI, f"{URI}/", f"{URI}/sub", "GS://corpus,s3://models/gpt/x"):
            assert not self.api.refusal(pod(good)), good
            AllowedDatasets(kube_client).check("ml", map(str, parse_datasets(good)))
        with pytest.raises(DatasetNotAllowed, match="namespace ml may not name s3://models/gpt-4"):
            AllowedDatasets(kube_client).check("ml", ["s3://models/gpt-4"])
        assert "may not name s3://models/gpt-4/" in self.api.refusal(pod("s3://models/gpt-4"))
        self.write({"allowedDatasets.ml": "s3://models/other"})
        until(lambda: not self.api.refusal(pod("s3://models/other")), "in effect")
        assert "allowed are s3://models/other/" in self.api.refusal(pod(URI))

    def test_without_parameters_nobody_is_kept_from_creating_pods(self) -> None:
        self.kube.api.delete(self.path)
        until(lambda: gates(self.api.admit(pod(URI))) == [], "in effect")
        assert not self.api.refusal(pod())
        metadata = {"name": "kube-cache-admission", "namespace": "kube-cache-system"}
        self.kube.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        until(lambda: gates(self.api.admit(pod(URI))) == [names.GATE], "in effect, by the defaults")
        assert judge(self.api.admit(pod(URI)), DEFAULT_ROOT, URI) == Verdict()
        self.write(self.data)
