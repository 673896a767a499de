"""A small Kubernetes API client for tools and tests: plain JSON in, plain JSON out.

The official client takes a second to import and turns documents into objects that tests would turn back; kubectl needs
a process for each request. This client keeps connections, is thread-safe, and learns kinds from the server's own
discovery. The product does not use it.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
import yaml

Document = dict[str, Any]

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class _Resource(NamedTuple):
    plural: str
    namespaced: bool


class KubeApi:
    def __init__(self, kubeconfig: Path, *, connections: int = 32, timeout_s: float = 30) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        # The ssl module loads a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
        self._pool = urllib3.PoolManager(ssl_context=context, maxsize=connections, retries=False, timeout=timeout_s)
        self._resources: dict[tuple[str, str], _Resource] = {}
        """By (prefix, kind)."""

    def close(self) -> None:
        self._pool.clear()

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: Any
    ) -> Document:
        parameters = {key: value for key, value in query.items() if value is not None}
        url = f"{self.server}{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        data = None if body is None else json.dumps(body)
        response = self._pool.request(
            method, url, body=data, headers={"Content-Type": content_type, "Accept": "application/json"}
        )
        if response.status >= 400:
            raise ApiError(response.status, _message(response.data))
        return dict(json.loads(response.data)) if response.data[:1] == b"{" else {}

    def get(self, path: str, **query: Any) -> Document:
        return self.request("GET", path, **query)

    def text(self, path: str) -> str:
        """Get what is no document, such as metrics."""
        response = self._pool.request("GET", f"{self.server}{path}")
        if response.status >= 400:
            raise ApiError(response.status, _message(response.data))
        return response.data.decode()

    def find(self, path: str) -> Document | None:
        """Get an object; None when it does not exist."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Delete an object; does nothing when it does not exist."""
        try:
            self.request("DELETE", path, gracePeriodSeconds=grace_s)
        except ApiError as error:
            if error.status != 404:
                raise

    def create(self, document: Document) -> Document:
        return self.request("POST", self.collection(document), document)

    def apply(self, document: Document, *, dry_run: bool = False, strict: bool = False) -> Document:
        """Apply on the server: create the object, or take over its fields. strict: refuse fields that nobody knows."""
        path = f"{self.collection(document)}/{document['metadata']['name']}"
        return self.request(
            "PATCH",
            path,
            document,
            content_type=_APPLY,
            fieldManager="kube-cache-tools",
            force="true",
            dryRun="All" if dry_run else None,
            fieldValidation="Strict" if strict else None,
        )

    def apply_all(self, documents: Iterable[Document], *, dry_run: bool = False) -> None:
        for document in documents:
            self.apply(document, dry_run=dry_run)

    def collection(self, document: Document) -> str:
        """Return the path of the collection that a document belongs to."""
        version = document["apiVersion"]
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resource = self._resource(prefix, document["kind"])
        namespace = document.get("metadata", {}).get("namespace", "default")
        return (
            f"{prefix}/namespaces/{namespace}/{resource.plural}"
            if resource.namespaced
            else f"{prefix}/{resource.plural}"
        )

    def _resource(self, prefix: str, kind: str) -> _Resource:
        if (prefix, kind) not in self._resources:
            for resource in self.get(prefix)["resources"]:
                if "/" not in resource["name"]:
                    self._resources[prefix, resource["kind"]] = _Resource(resource["name"], resource["namespaced"])
        try:
            return self._resources[prefix, kind]
        except KeyError:
            raise ApiError(404, f"the server has no {kind} in {prefix}") from None


def documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a manifest file."""
    return parse(path.read_text())


def parse(text: str) -> Iterator[Document]:
    """Yield the documents of a manifest, read in C: what is shipped takes 70 ms instead of 440."""
    return filter(None, yaml.load_all(text, Loader=_LOADER))


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:300].decode(errors="replace")
