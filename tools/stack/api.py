"""A small Kubernetes API client for tools and tests: plain JSON in, plain JSON out.

Why not the official one: it costs a second to import and turns documents into objects that tests would turn back. Why
not kubectl: a process per request. This one keeps connections, is thread-safe, and knows nothing of kinds but what the
server's own discovery says. The product does not use it.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Document = dict[str, Any]

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class KubeApi:
    def __init__(self, kubeconfig: Path, *, connections: int = 32) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        # The ssl module loads a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._pool = urllib3.PoolManager(ssl_context=context, maxsize=connections, retries=False, timeout=30)
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        self._pool.clear()

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: Any
    ) -> Document:
        given = {key: value for key, value in query.items() if value is not None}
        url = f"{self.server}{path}" + (f"?{urlencode(given)}" if given else "")
        data = None if body is None else json.dumps(body)
        response = self._pool.request(
            method, url, body=data, headers={"Content-Type": content_type, "Accept": "application/json"}
        )
        if response.status >= 400:
            raise ApiError(response.status, _message(response.data))
        return dict(json.loads(response.data)) if response.data[:1] == b"{" else {}

    def get(self, path: str, **query: Any) -> Document:
        return self.request("GET", path, **query)

    def find(self, path: str) -> Document | None:
        """Like `get`, but nothing there is an answer."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Deleting what is not there is fine."""
        try:
            self.request("DELETE", path, gracePeriodSeconds=grace_s)
        except ApiError as error:
            if error.status != 404:
                raise

    def create(self, document: Document) -> Document:
        return self.request("POST", self.collection(document), document)

    def apply(self, document: Document, *, dry_run: bool = False) -> Document:
        """Server-side apply: creates or takes over."""
        path = f"{self.collection(document)}/{document['metadata']['name']}"
        return self.request(
            "PATCH",
            path,
            document,
            content_type=_APPLY,
            fieldManager="kube-cache-tools",
            force="true",
            dryRun="All" if dry_run else None,
        )

    def apply_all(self, documents: Iterable[Document], *, dry_run: bool = False) -> None:
        for document in documents:
            self.apply(document, dry_run=dry_run)

    def collection(self, document: Document) -> str:
        """Path of the collection that a document belongs to."""
        version = document["apiVersion"]
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural, namespaced = self._kind(prefix, document["kind"])
        namespace = document.get("metadata", {}).get("namespace", "default")
        return f"{prefix}/namespaces/{namespace}/{plural}" if namespaced else f"{prefix}/{plural}"

    def _kind(self, prefix: str, kind: str) -> tuple[str, bool]:
        if (prefix, kind) not in self._kinds:
            for resource in self.get(prefix)["resources"]:
                if "/" not in resource["name"]:
                    self._kinds[prefix, resource["kind"]] = (resource["name"], resource["namespaced"])
        try:
            return self._kinds[prefix, kind]
        except KeyError:
            raise ApiError(404, f"the server has no {kind} in {prefix}") from None


def documents(path: Path) -> Iterator[Document]:
    """The documents of a manifest file."""
    for document in yaml.safe_load_all(path.read_text()):
        if document:
            yield document


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:300].decode(errors="replace")
