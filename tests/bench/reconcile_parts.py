"""Two of the parts around a reconcile that `tests.bench.reconcile` measures, each a process of its own.

`python -m tests.bench.reconcile_parts api|operator …`: an API server that answers lists with Pods of a real one's size,
and the operator's worker with the reconcile's own workflows and activities. The third part is tests.bench.stub_agents.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

from kubernetes import client as kubernetes_client
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.cluster.reconcile import ReconcileActivities
from activities.cluster.survey import Surveys
from activities.cluster.tell_workflows import TellWorkflows
from kube_cache import names
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import receipt_annotations
from tests.bench.stub_agents import CACHE_ID, node_name
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile
from workflows.reconcile_shard import ReconcileShard

_PADDING = {f"example.com/label-{number}": "x" * 60 for number in range(45)}
"""What makes a Pod's JSON the 5 KiB that one has in a cluster with sidecars and managedFields."""


def digest(number: int) -> str:
    return f"{number:064x}"


def pod_uid(number: int) -> str:
    return f"{number:08}-1111-4222-8333-aaaaaaaaaaaa"


# The API server.


def api(port: int, nodes: int, pods: int, gated: int) -> None:
    """Serve lists: the first `gated` Pods wait behind our gate, the others were released, evenly over the nodes."""
    items = {
        "pods": [json.dumps(_pod(number, nodes, gated)).encode() for number in range(pods)],
        "nodes": [json.dumps(_meta(node_name(number))).encode() for number in range(nodes)],
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlparse(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            found = [] if "/namespaces/" in url.path else items[url.path.rsplit("/", 1)[1]]
            begin, limit = int(query.get("continue", 0)), int(query["limit"])
            more = str(begin + limit) if begin + limit < len(found) else ""
            meta = json.dumps({"resourceVersion": "1", "continue": more}).encode()
            body = b'{"items":[' + b",".join(found[begin : begin + limit]) + b'],"metadata":' + meta + b"}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def _meta(name: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": _PADDING}}


def _pod(number: int, nodes: int, gated: int) -> dict[str, object]:
    uid = pod_uid(number)
    annotations = {names.DATASET_ANNOTATION: "s3://models/gpt"}
    spec: dict[str, object] = {"schedulingGates": [{"name": names.GATE}]}
    if number >= gated:
        node = number % nodes
        annotations |= receipt_annotations(node_name(node), CACHE_ID, [digest(node)])
        spec = {"nodeName": node_name(node)}
    meta = {"namespace": "ml", "name": uid, "uid": uid, "annotations": annotations, "labels": _PADDING}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Pending" if number < gated else "Running"}}


# The operator.


@workflow.defn(name=names.WARM_POD)
class Waiting:
    """A `WarmPod` that waits: it takes the signal, and has no cluster in which it could look."""

    def __init__(self) -> None:
        self._looks = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def resync(self) -> None:
        self._looks += 1


async def operator(address: str, port: int) -> None:
    client = await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE)
    configuration = kubernetes_client.Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    kube = KubeClient(configuration)
    surveys = Surveys(kube, client, seat_namespace="seats")
    reconcile = ReconcileActivities(client, surveys)
    tell = TellWorkflows(kube, client, surveys, seat_namespace="seats")
    worker = Worker(
        client,
        task_queue=names.OPERATOR_QUEUE,
        workflows=[Waiting, DatasetOnNode, Reconcile, ReconcileShard],
        activities=[reconcile.survey_cluster, reconcile.plan_shard, reconcile.settle_node, tell.tell_workflows],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_task_polls=20,
        max_cached_workflows=1000,
    )
    await worker.run()


def main() -> None:
    part, *rest = sys.argv[1:]
    if part == "api":
        api(*map(int, rest))
    else:
        asyncio.run(operator(rest[0], int(rest[1])))


if __name__ == "__main__":
    main()
