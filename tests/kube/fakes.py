"""Values that several tests of the Kubernetes side write, and an API server that answers as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubernetes import client as kubernetes_client

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient
from kube_cache.kube.mounts import DEFAULT_ROOT

URI = "s3://models/gpt"
RELEASED_TO = "gpu-2"
RECEIPT = {names.NODE_ANNOTATION: RELEASED_TO, names.SNAPSHOT_ANNOTATION: "ab" * 32}


def release(client: KubeClient, pod: PodRef, node: str | None) -> gate.Released:
    return gate.release(client, pod, node, RECEIPT, cache_root=DEFAULT_ROOT)


Answer = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""
SILENT_AFTERWARDS = "X-Silent-Afterwards"
"""Header of an answer that goes on, without a word, for so many seconds."""
NO_STREAM: Answer = (422, b'{"message":"sendInitialEvents is forbidden for watch"}', {})
"""Of a server without the feature WatchList, or with the feature switched off."""
EMPTY_LIST = json.dumps({"items": [], "metadata": {"resourceVersion": "5"}}).encode()


class ApiServer:
    """Gives the answers that the real API server does not give on demand."""

    def __init__(self, answer: Callable[[str, int], Answer], *, streams_lists: bool = False) -> None:
        """answer: called with the path and the number of requests so far; not for a streamed list, unless told."""
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.authorizations: list[str] = []
        """Header of each request, in the same order."""
        self.bodies: list[bytes] = []
        """Of each POST."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append(self.path)
                outer.authorizations.append(self.headers.get("Authorization", ""))
                if "sendInitialEvents" in self.path and not streams_lists:
                    status, body, headers = NO_STREAM
                else:
                    status, body, headers = answer(self.path, len(outer.requests))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                silent_s = float(headers.get(SILENT_AFTERWARDS, 0))
                if not silent_s:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = bool(silent_s)
                outer.closing.wait(silent_s)

            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        configuration = kubernetes_client.Configuration()
        configuration.host = f"http://127.0.0.1:{self._server.server_port}"
        self.client = KubeClient(configuration)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def api_server(answer: Callable[[str, int], Answer], *, streams_lists: bool = False) -> Iterator[ApiServer]:
    server = ApiServer(answer, streams_lists=streams_lists)
    try:
        yield server
    finally:
        server.close()


def watch_line(event: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": event, "object": item}).encode() + b"\n"
