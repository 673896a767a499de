"""A kube-scheduler of its own that answers for each Pod which nodes pass every filter, and binds none.

An extender hears the nodes that have passed the plugins' filters, notes them and rejects them all. When none has
passed, the extender is not asked, and the Pod's condition says why. Preemption is off.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.servers import build
from tools.stack import Stack, environment, ports

NAME = "oracle"
_REJECTED = "the oracle binds no Pod"
_ANSWER_S = 60
_REASON = re.compile(r"\d+ ((?:node\(s\)|Insufficient|Too many)[^,]*?)(?:,|\.(?:\s|$))")


class Answer(NamedTuple):
    nodes: frozenset[str]
    """Nodes that the Pod could go to."""
    refusal: str
    """The scheduler's words if there is none."""

    @property
    def reasons(self) -> set[str]:
        """Kinds of refusal, without numbers and details."""
        return {re.sub(r" \{.*\}| \(s\)", "", reason).strip() for reason in _REASON.findall(self.refusal)}


class Oracle:
    def __init__(self, stack: Stack, folder: Path) -> None:
        self._api = stack.api
        self._heard: dict[str, frozenset[str]] = {}
        self._server = ThreadingHTTPServer((ports.LOOPBACK, 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        kubeconfig = next(
            argument.partition("=")[2]
            for argument in stack.cluster.control_plane.scheduler.argv
            if argument.startswith("--kubeconfig=")
        )
        config = folder / "oracle.yaml"
        config.write_text(yaml.safe_dump(self._config(kubeconfig)))
        binary = build.ensure(["kube-scheduler"])["kube-scheduler"]
        self._process = stack.processes.spawn(
            NAME, [binary, f"--config={config}", "--secure-port=0"], environment.clean(folder)
        )

    def close(self) -> None:
        self._process.stop(5)
        self._server.shutdown()
        self._server.server_close()

    def ask(self, pods: Iterable[dict[str, Any]]) -> dict[str, Answer]:
        """Wait for the answer about each of these Pods, which exist and name this scheduler; by uid."""
        pods = list(pods)
        waiting = {pod["metadata"]["uid"]: pod for pod in pods}
        answers: dict[str, Answer] = {}
        deadline = time.monotonic() + _ANSWER_S
        while waiting:
            for uid in [uid for uid in waiting if uid in self._heard]:
                answers[uid] = Answer(self._heard[uid], "")
                del waiting[uid]
            for namespace in {pod["metadata"]["namespace"] for pod in waiting.values()}:
                for pod in self._api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
                    uid = pod["metadata"]["uid"]
                    words = _refusal(pod)
                    if uid in waiting and words and _REJECTED not in words and uid not in self._heard:
                        answers[uid] = Answer(frozenset(), words)
                        del waiting[uid]
            assert time.monotonic() < deadline, f"no answer about {[p['metadata']['name'] for p in waiting.values()]}"
            time.sleep(0.02)
        return answers

    def _config(self, kubeconfig: str) -> dict[str, Any]:
        extender = {
            "urlPrefix": f"http://{ports.LOOPBACK}:{self._server.server_port}",
            "filterVerb": "filter",
            "nodeCacheCapable": True,
            "httpTimeout": "30s",
        }
        return {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": kubeconfig, "qps": 500, "burst": 1000},
            "percentageOfNodesToScore": 100,
            "profiles": [{"schedulerName": NAME, "plugins": {"postFilter": {"disabled": [{"name": "*"}]}}}],
            "extenders": [extender],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        heard = self._heard

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                names = asked["NodeNames"] or []
                uid = asked["Pod"]["metadata"]["uid"]
                heard.setdefault(uid, frozenset(names))
                body = json.dumps({"failedAndUnresolvableNodes": dict.fromkeys(names, _REJECTED)}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        return Handler


def _refusal(pod: dict[str, Any]) -> str:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "")) if condition.get("reason") != "SchedulingGated" else ""
    return ""
