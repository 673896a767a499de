"""A thin, thread-safe Kubernetes API client: JSON in, JSON out, over the `kubernetes` package's own configuration.

The package knows where the cluster is and who we are (kubeconfig, in-cluster, exec plugins, token refresh). Its models
are not used: one Pod costs 0.8 ms and 44 KiB as a model and a tenth of that as a dict. The client makes no second
attempt: its callers are activities and reflectors, which have their own ways to retry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
from kubernetes import config as kubernetes_config

from kube_cache import names
from kube_cache.errors import KubeCacheError
from kube_cache.kube import credentials
from kube_cache.kube.connections import CONNECT_S, Pools
from kube_cache.kube.credentials import Configuration, Credentials
from kube_cache.telemetry import metrics

Json = dict[str, Any]

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
# Seconds without a line after which a watch is dead: the API server sends a bookmark about once a minute. In a cluster
# without a single write for so long it sends none, and the watch is opened anew for nothing.
WATCH_SILENCE_S = 90.0
SILENT = "Silent"
"""Reason of an `ApiError` for a watch that was open, and silent for too long."""
# Longest pause that a server's Retry-After gets, seconds: less than the silence after which a watch counts as dead.
_MAX_RETRY_AFTER_S = 60.0
# Objects in one page of a list: the chunk size of kubectl.
_PAGE_OBJECTS = 500


class ApiError(KubeCacheError):
    """The API server refused or did not answer; `status` is 0 when nothing came back."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, status=status, reason=reason)
        self.status = status
        self.reason = reason
        self.retry_after_s = min(retry_after_s, _MAX_RETRY_AFTER_S)


class Page(NamedTuple):
    items: list[Json]
    resource_version: str
    """Where a watch that continues this list begins; of the last page."""


def is_not_found(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.status == 404


class KubeClient:
    """Verbs of the API as methods. Every method blocks; any thread may call."""

    def __init__(self, configuration: Configuration, reload: Callable[[], Configuration] | None = None) -> None:
        """reload: reads the configuration anew, to be called when the server refuses our credentials."""
        self._host = configuration.host.rstrip("/")
        self._credentials = Credentials(configuration, reload)
        self._pools = Pools(self._credentials)

    @classmethod
    def from_environment(cls) -> KubeClient:
        """Configure from KUBECONFIG (or ~/.kube/config), else from the Pod's service account. Raises InvalidRequest."""
        return cls(credentials.load(), credentials.load)

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> Json:
        """GET a Pod. allow_stale: from the API server's watch cache, which spares etcd a read. Raises ApiError."""
        query = {"resourceVersion": "0"} if allow_stale else None
        return self.request("GET", pod_path(namespace, name), query=query)

    def cluster_uid(self) -> str:
        """Return the uid of the namespace kube-system, which no two clusters share. Raises ApiError."""
        return str(self.request("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"])

    def list_items(
        self,
        resource: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_stale: bool = False,
    ) -> list[Json]:
        """List every item of the selection. Raises ApiError."""
        pages = self.pages(resource, namespace, label_selector, field_selector, allow_stale=allow_stale)
        return [item for page in pages for item in page.items]

    def pages(
        self,
        resource: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        *,
        allow_stale: bool = False,
    ) -> Iterator[Page]:
        """List the selection page by page, so that the caller may drop a page before the next one comes.

        allow_stale: from the API server's watch cache as it is, which may be some milliseconds old.
        Raises ApiError (410: the list took too long, begin again).
        """
        query = {"limit": str(_PAGE_OBJECTS), "labelSelector": label_selector, "fieldSelector": field_selector}
        if allow_stale:
            query["resourceVersion"] = "0"
        path = resource_path(resource, namespace)
        while True:
            page = self.request("GET", path, query=query)
            try:
                items, meta = page["items"] or [], page["metadata"]
                more, version = meta.get("continue"), str(meta["resourceVersion"])
            except (KeyError, TypeError, AttributeError) as error:
                raise ApiError(0, "NotAList", f"the Kubernetes API answers GET {path} with no list") from error
            yield Page(items, version)
            if not more:
                return
            query.pop("resourceVersion", None)  # the token holds one, and the server refuses a second
            query["continue"] = more

    def create(self, path: str, body: Json) -> Json:
        """POST an object. Raises ApiError."""
        return self.request("POST", path, body, query={"fieldManager": names.FIELD_MANAGER})

    def patch(self, path: str, body: Json, *, content_type: str = STRATEGIC_MERGE) -> Json:
        """PATCH an object. Raises ApiError."""
        return self.request("PATCH", path, body, content_type=content_type, query={"fieldManager": names.FIELD_MANAGER})

    def delete(self, path: str, body: Json | None = None) -> Json:
        """DELETE an object; body: DeleteOptions. Raises ApiError."""
        return self.request("DELETE", path, body)

    def replace(self, path: str, body: Json) -> Json:
        """PUT an object; its resourceVersion guards the write. Raises ApiError (409: somebody else was first)."""
        return self.request("PUT", path, body, query={"fieldManager": names.FIELD_MANAGER})

    def watch_lines(self, path: str, query: dict[str, str], *, silence_s: float = WATCH_SILENCE_S) -> Iterator[bytes]:
        """Yield watch events as raw JSON lines until the server ends the stream. Raises ApiError.

        silence_s: seconds without a line after which the connection counts as dead: a half-open one is silent for ever.
        """
        response = self._send("GET", path, None, "", query, silence_s)
        try:
            if response.status != 200:
                raise _error(response.status, response.headers, response.read(), "GET", path)
            rest = b""
            while chunk := response.read1():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ApiError(0, SILENT, f"the watch of {path} was silent for {silence_s:.0f} s") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Disconnected", f"the watch of {path} broke: {error}") from error
        finally:
            response.close()

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Json:
        """Send one request and parse the answer. Raises ApiError."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        response = self._send(method, path, data, content_type, query or {})
        if response.status >= 400:
            raise _error(response.status, response.headers, response.data, method, path)
        try:
            parsed: Json = json.loads(response.data)
        except ValueError as error:  # a proxy's page
            raise ApiError(0, "NotJson", f"{method} {path}: the answer is not JSON: {response.data[:200]!r}") from error
        return parsed

    def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        content_type: str,
        query: dict[str, str],
        silence_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """silence_s: of a stream, whose answer is not read here; None = a request."""
        filled = {key: value for key, value in query.items() if value}
        url = f"{self._host}{path}" + (f"?{urlencode(filled)}" if filled else "")
        headers = {"Accept": "application/json", "User-Agent": "kube-cache"}
        if data is not None:
            headers["Content-Type"] = content_type
        number = self._credentials.number
        response = self._send_as(method, url, data, headers, silence_s)
        if response.status == 401 and self._credentials.renew(number):
            # What was refused for want of credentials has changed nothing: the one request that is made twice.
            response.close()
            response = self._send_as(method, url, data, headers, silence_s)
        return response

    def _send_as(
        self, method: str, url: str, data: bytes | None, headers: dict[str, str], silence_s: float | None
    ) -> urllib3.BaseHTTPResponse:
        """Send with the credentials of this moment, and count what came of it."""
        pools = self._pools.current()
        if token := self._token():
            headers["Authorization"] = token
        verb, started, code = method if silence_s is None else "WATCH", time.perf_counter(), "none"
        response: urllib3.BaseHTTPResponse
        try:
            if silence_s is None:
                response = pools.requests.request(method, url, body=data, headers=headers)
            else:
                timeout = urllib3.Timeout(connect=CONNECT_S, read=silence_s)
                response = pools.watches.request(method, url, headers=headers, preload_content=False, timeout=timeout)
            code = _code(response.status)
            return response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", f"the Kubernetes API at {self._host} does not answer: {error}") from error
        finally:
            metrics.API_REQUESTS.labels(verb, code).inc()
            metrics.API_SECONDS.labels(verb).observe(time.perf_counter() - started)

    def _token(self) -> str | None:
        """Return the Authorization header. Raises ApiError."""
        try:
            return self._credentials.authorization()
        except (kubernetes_config.ConfigException, OSError, ValueError, LookupError) as error:
            # A file that is being replaced, an exec plugin that fails, no file descriptor left: all of it may pass.
            raise ApiError(0, "NoCredentials", f"cannot read the credentials for {self._host}: {error}") from error


def resource_path(resource: str, namespace: str = "") -> str:
    """Return the path of a collection. resource: `pods` of the core, else `<group>/<version>/<plural>`."""
    version, _, plural = resource.rpartition("/")
    root = f"/apis/{version}" if version else "/api/v1"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def pod_path(namespace: str, name: str, subresource: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}" + (f"/{subresource}" if subresource else "")


def _code(status: int) -> str:
    """Return the code under which an answer is counted: client errors by number, the others by class."""
    return str(status) if 400 <= status < 500 else f"{status // 100}xx"


def _error(status: int, headers: Any, data: bytes, method: str, path: str) -> ApiError:
    try:
        body = json.loads(data)
    except ValueError:
        body = {}
    message = body.get("message") or data[:200].decode(errors="replace")
    try:
        retry_after = float(headers.get("Retry-After", 0))
    except ValueError:
        retry_after = 0.0
    return ApiError(
        status, body.get("reason") or "Unknown", f"{method} {path}: {status} {message}", retry_after_s=retry_after
    )
