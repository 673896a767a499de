"""Pods with mounts of the cache, right and wrong: for the verdict before a release and for the one at admission."""

from __future__ import annotations

from typing import Any

import pytest

ROOT = "/var/lib/kube-cache"
SNAPSHOTS = f"{ROOT}/snapshots"
CURRENT = f"{ROOT}/datasets/s3/models/gpt/@current"
TOKENS = f"{ROOT}/datasets/gs/corpus/@current"
DATASETS = "s3://models/gpt/, gs://corpus"
UID = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
OWN = "pods/$(POD_UID)/0"


def pod(
    path: str = SNAPSHOTS,
    kind: str | None = "Directory",
    *,
    containers: str = "containers",
    env: list[dict[str, Any]] | None = None,
    **mount: Any,
) -> dict[str, Any]:
    """Pod with one mount, by default of form O; a field of the mount that is None is left out."""
    fields = {"name": "cache", "mountPath": "/weights", "readOnly": True, "subPathExpr": OWN, **mount}
    container = {
        "name": "train",
        "env": [UID] if env is None else env,
        "volumeMounts": [{key: value for key, value in fields.items() if value is not None}],
    }
    host_path = {"path": path, **({} if kind is None else {"type": kind})}
    return {"spec": {containers: [container], "volumes": [{"name": "cache", "hostPath": host_path}]}}


def whole(path: str, kind: str | None = "Directory", **mount: Any) -> dict[str, Any]:
    """Pod that mounts a folder without a sub-path."""
    return pod(path, kind, **{"subPathExpr": None, **mount})


OWN_LINK = [
    pytest.param(pod(), id="the first dataset"),
    pytest.param(pod(subPathExpr="pods/$(POD_UID)/1"), id="the second dataset"),
    pytest.param(pod(recursiveReadOnly="IfPossible"), id="recursively read-only"),
    pytest.param(pod(f"{SNAPSHOTS}/"), id="a trailing slash"),
    pytest.param(pod(f"/{SNAPSHOTS}"), id="two slashes"),
    pytest.param(pod(containers="initContainers"), id="an init container"),
    pytest.param(pod(containers="ephemeralContainers"), id="an ephemeral container"),
    pytest.param(pod(env=[{"name": "POD_UID", "value": "x"}, UID]), id="the last entry of the variable counts"),
]
CURRENT_BY_HAND = [
    pytest.param(whole(CURRENT), id="of the first dataset"),
    pytest.param(whole(TOKENS), id="of a bucket"),
    pytest.param(whole(f"{ROOT}//datasets/s3/models/gpt//@current/"), id="slashes"),
    pytest.param(whole(CURRENT, containers="initContainers"), id="an init container"),
]
NOT_OF_THE_CACHE = [
    pytest.param({"spec": {"containers": [{"name": "a"}]}}, id="no volume"),
    pytest.param({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "e", "emptyDir": {}}]}}, id="others"),
    pytest.param(whole("/data", readOnly=None), id="another folder, writable"),
    pytest.param(whole("/var/lib/kube-cache-2", readOnly=None), id="a folder whose name begins like the cache's"),
    pytest.param(whole("/var/lib", subPath="log", readOnly=None), id="a neighbour by subPath"),
    pytest.param(whole("/var", subPathExpr="log/$(POD_NAME)", readOnly=None), id="a neighbour by subPathExpr"),
    pytest.param(whole("/", recursiveReadOnly="Enabled"), id="a parent, all of it read-only"),
    pytest.param(
        {"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "c", "hostPath": {"path": ROOT}}]}},
        id="a volume that nothing mounts",
    ),
]
UNSAFE = [
    pytest.param(pod(readOnly=None), "not read-only", id="form O, writable"),
    pytest.param(pod(readOnly=False), "not read-only", id="form O, said to be writable"),
    pytest.param(pod(kind="DirectoryOrCreate"), "a missing folder is no error", id="form O, makes the folder"),
    pytest.param(pod(kind=""), "a missing folder is no error", id="form O, empty type"),
    pytest.param(pod(kind=None), "a missing folder is no error", id="form O, no type"),
    pytest.param(pod(subPathExpr="pods/$(POD_UID)/2"), "names 2 dataset", id="form O, no such dataset"),
    pytest.param(pod(subPathExpr="pods/$(POD_UID)/00"), "which is not pods/", id="form O, not a number"),
    pytest.param(pod(subPathExpr="pods/$(POD_UID)"), "which is not pods/", id="form O, all of the Pod's links"),
    pytest.param(pod(subPathExpr="pods/$(OTHER)/0"), "which is not pods/", id="form O, another variable"),
    pytest.param(pod(subPathExpr="pods/$(POD_UID)/0/x"), "which is not pods/", id="form O, a folder inside"),
    pytest.param(pod(subPathExpr="pods/123/0"), "which is not pods/", id="form O, a literal uid"),
    pytest.param(pod(env=[]), "POD_UID", id="form O, no variable"),
    pytest.param(pod(env=[{"name": "POD_UID", "value": "123"}]), "POD_UID", id="form O, a literal variable"),
    pytest.param(pod(env=[UID, {"name": "POD_UID", "value": "123"}]), "POD_UID", id="form O, overridden variable"),
    pytest.param(
        pod(env=[{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        "POD_UID",
        id="form O, another field",
    ),
    pytest.param(whole(SNAPSHOTS), "the snapshots of all Pods", id="all snapshots"),
    pytest.param(whole(SNAPSHOTS, subPath="ab/data"), "subPath", id="a snapshot by subPath"),
    pytest.param(pod(ROOT), "a folder of the cache that no Pod may mount", id="the obvious form, which fails open"),
    pytest.param(whole(ROOT), "a folder of the cache that no Pod may mount", id="the cache root"),
    pytest.param(whole(f"{ROOT}/objects"), "a folder of the cache", id="the objects"),
    pytest.param(whole(f"{ROOT}/pods/123/0"), "a folder of the cache", id="a Pod's link by path"),
    pytest.param(whole(f"{ROOT}/snapshots/{'ab' * 32}/data"), "a folder of the cache", id="a snapshot by path"),
    pytest.param(whole(CURRENT, readOnly=None), "not read-only", id="@current, writable"),
    pytest.param(whole(CURRENT, "DirectoryOrCreate"), "a missing folder is no error", id="@current, made"),
    pytest.param(whole(CURRENT, None), "a missing folder is no error", id="@current, no type"),
    pytest.param(whole(CURRENT, subPath="x"), "sub-path in @current", id="@current, by subPath"),
    pytest.param(whole(CURRENT, subPathExpr="$(X)"), "sub-path in @current", id="@current, by subPathExpr"),
    pytest.param(whole(f"{CURRENT}/x"), "a folder of the cache", id="a folder in @current"),
    pytest.param(whole(f"{ROOT}/datasets/s3/models/other/@current"), "does not name", id="@current of another"),
    pytest.param(whole(f"{ROOT}/datasets/s3/models/gpt"), "a folder of the cache", id="the folder of @current"),
    pytest.param(whole("/var/lib", readOnly=None), "the whole cache in it", id="a parent, writable"),
    pytest.param(whole("/"), "recursiveReadOnly: Enabled", id="the root folder, its own file system read-only"),
    pytest.param(
        whole("/", recursiveReadOnly="IfPossible"), "recursiveReadOnly: Enabled", id="a parent, perhaps read-only"
    ),
    pytest.param(whole("/var", subPath="lib", readOnly=None), "the whole cache", id="a parent by subPath"),
    pytest.param(
        whole("/var/lib", subPath="kube-cache/snapshots"),
        "reaches '/var/lib/kube-cache/snapshots'",
        id="by subPath",
    ),
    pytest.param(whole("/var/lib", subPathExpr="$(X)", recursiveReadOnly="Enabled"), "may reach", id="by subPathExpr"),
    pytest.param(whole("/var/lib", subPathExpr="kube-cache/pods/$(POD_UID)/0"), "reaches", id="deep by subPathExpr"),
    pytest.param(whole("/data/../var/lib/kube-cache", readOnly=None), "not read-only", id="two dots"),
    pytest.param(whole("/var/./lib/kube-cache/.", readOnly=None), "not read-only", id="single dots"),
    pytest.param(whole("var/lib/kube-cache", readOnly=None), "not read-only", id="a relative path"),
    pytest.param(whole("/..", readOnly=None), "the whole cache in it", id="above the root folder"),
]
