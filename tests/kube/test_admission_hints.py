"""What `kubectl apply` prints: the refusal with its remedy, and warnings of what is most likely not meant."""

from __future__ import annotations

import json
import subprocess

import pytest

from kube_cache import names
from tests.kube.admission import admission, pod, workload
from tools.servers import build
from tools.stack import Stack
from tools.stack.api import Document

URI = "s3://models/gpt"


def apply(kube: Stack, item: Document) -> str:
    """What kubectl prints, from the first word of an error or warning on; each object is checked and not stored."""
    admission(kube)  # the policies are in effect
    binary = build.ensure(["kubectl"])["kubectl"]
    command = [str(binary), "--kubeconfig", str(kube.kubeconfig), "apply", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(item), capture_output=True, text=True, timeout=120, check=False)
    return done.stderr


def annotated(kind: str) -> Document:
    """Workload that names a dataset on itself, which its Pods do not see."""
    item = workload(kind, pod())
    item["metadata"]["annotations"] = {names.DATASET_ANNOTATION: URI}
    return item


@pytest.mark.parametrize(
    ("item", "words"),
    [
        pytest.param(pod("models/gpt"), "has no known scheme; write it like s3://bucket/prefix", id="refused"),
        pytest.param(annotated("Deployment"), "write it in the metadata of its Pod template", id="not in the template"),
        pytest.param(annotated("CronJob"), "write it in the metadata of its Pod template", id="of a CronJob"),
        pytest.param(workload("DaemonSet", pod(URI)), "run on nodes without an agent, too", id="DaemonSet"),
        pytest.param(pod(URI, nodeName="gpu-1"), "starts without waiting for its dataset", id="its node is named"),
        pytest.param(pod(schedulingGates=[{"name": names.GATE}]), "holds the Pod until it names a dataset", id="gate"),
    ],
)
def test_kubectl_apply_tells_the_author(kube: Stack, item: Document, words: str) -> None:
    assert words in apply(kube, item)


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "CronJob"])
def test_nothing_is_said_of_what_works(kube: Stack, kind: str) -> None:
    assert apply(kube, workload(kind, pod(URI))) == ""
