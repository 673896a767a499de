"""Asks the real API server what admission says of a document. Nothing is created, because each request is a dry run."""

from __future__ import annotations

from functools import cache
from typing import Any

from kube_cache import names
from tools.stack import Stack
from tools.stack.api import ApiError, Document
from tools.stack.control_plane import USER_NAMESPACE
from tools.stack.waiting import true as until

CONTAINER: Document = {"name": "train", "image": "registry.example/train:1"}
_TEMPLATES = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}
KINDS = ("Pod", *_TEMPLATES)


def pod(dataset: str | None = None, *, annotations: dict[str, str] | None = None, **spec: Any) -> Document:
    """Pod of one container without anything that admission is to add. dataset: of the annotation, None = none."""
    named = {} if dataset is None else {names.DATASET_ANNOTATION: dataset}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "namespace": USER_NAMESPACE, "annotations": {**named, **(annotations or {})}},
        "spec": {"containers": [dict(CONTAINER)], **spec},
    }


def workload(kind: str, item: Document) -> Document:
    """Workload with the Pod as its template; the Pod itself for the kind Pod."""
    if kind == "Pod":
        return item
    labels = {"app": "one"}
    spec = dict(item["spec"])
    if "Job" in kind:
        spec["restartPolicy"] = "Never"
    template = {"metadata": {"labels": labels, "annotations": item["metadata"]["annotations"]}, "spec": spec}
    body: Document = {"template": template}
    if kind == "CronJob":
        body = {"schedule": "0 0 * * *", "jobTemplate": {"spec": body}}
    elif kind != "Job":
        body["selector"] = {"matchLabels": labels}
    if kind == "StatefulSet":
        body["serviceName"] = "one"
    meta = {"name": "one", "namespace": item["metadata"]["namespace"]}
    return {"apiVersion": _TEMPLATES[kind], "kind": kind, "metadata": meta, "spec": body}


class Admission:
    def __init__(self, stack: Stack) -> None:
        self._api = stack.api
        root = {"name": "x", "hostPath": {"path": "/var/lib/kube-cache", "type": "Directory"}}
        writer = {**CONTAINER, "volumeMounts": [{"name": "x", "mountPath": "/x"}]}
        refused = (pod("no dataset"), pod(volumes=[root], containers=[writer]))
        # A policy is in effect some time after it was applied.
        until(lambda: all(self.refusal(item) for item in refused), "the validating policies are in effect")
        until(lambda: self.admit(pod("s3://models/gpt"))["spec"].get("schedulingGates"), "the mutating one is")

    def admit(self, item: Document) -> Document:
        """Return the document as it would be stored. Raises ApiError."""
        return self._api.request("POST", self._api.collection(item), item, dryRun="All")

    def refusal(self, item: Document) -> str:
        """Return the API server's words; empty if it takes the document."""
        try:
            self.admit(item)
        except ApiError as error:
            assert error.status in (403, 422), error
            return str(error)
        return ""


@cache
def admission(stack: Stack) -> Admission:
    """Of the session's stack: the policies are waited for once."""
    return Admission(stack)
