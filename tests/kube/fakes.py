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
from kube_cache.kube.client import KubeClient

URI = "s3://models/gpt"
RECEIPT = {names.NODE_ANNOTATION: "gpu-2", names.SNAPSHOT_ANNOTATION: "ab" * 32}

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""
EMPTY_LIST = json.dumps({"items": [], "metadata": {"resourceVersion": "5"}}).encode()


class ApiServer:
    """Gives the answers that the real API server does not give on demand."""

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        """answer: called with the path and the number of requests so far."""
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append(self.path)
                status, body, headers = answer(self.path, len(outer.requests))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        configuration = kubernetes_client.Configuration()
        configuration.host = f"http://127.0.0.1:{self._server.server_port}"
        self.client = KubeClient(configuration)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def api_server(answer: Callable[[str, int], Answer]) -> Iterator[ApiServer]:
    server = ApiServer(answer)
    try:
        yield server
    finally:
        server.close()


def watch_line(event: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": event, "object": item}).encode() + b"\n"
