"""The object stores' control plane, over botocore: LIST, HEAD, part lists, and how to reach and sign for a bucket.

The hot path, ranged GETs, is not here but in `engine`; this module tells the engine where a bucket lives (`route`) and
signs each of its requests (`request`). Only reads: nothing in the product ever writes to an origin.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, NoCredentialsError

from kube_cache.dataset.checksums import decode_base64
from kube_cache.dataset.transfer import RemoteObject
from kube_cache.errors import AccessDenied, InvalidRequest, SourceUnavailable
from kube_cache.origin import s3_errors
from kube_cache.origin.client import ca_bundle, create_client, create_session
from kube_cache.origin.object_head import ObjectHead
from kube_cache.origin.range_request import RangeRequests
from kube_cache.origin.routes import Route, route_of
from kube_cache.origin.settings import OriginSettings
from kube_cache.origin.stored_parts import StoredPart, stored_parts

# On top of botocore's own attempts; between two of them the caller sends its heartbeat.
_MAX_LIST_ATTEMPTS: Final = 3
_LIST_BACKOFF_S: Final = 1.0


class Body(Protocol):
    def read(self, amt: int) -> bytes: ...
    def close(self) -> None: ...


class Origin:
    """The object store of one scheme. Thread-safe.

    Methods that ask the object store raise the errors of `s3_errors`, such as AccessDenied or SourceUnavailable.
    """

    def __init__(self, scheme: str, settings: OriginSettings) -> None:
        self.scheme = scheme
        self._settings = settings
        self._refreshing = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._last_request = threading.local()
        session = create_session()
        self._client = create_client(session, scheme, settings)
        self.ca_bundle = ca_bundle(session)
        # The client's own credentials, so that both planes refresh one object.
        self._credentials = None if settings.anonymous else self._client._request_signer._credentials  # noqa: SLF001
        self._range_requests = RangeRequests(settings, self._credentials)
        self._client.meta.events.register_last("before-send.s3", self._remember_request)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        """Yield pages of the objects whose keys begin with `prefix`, in key order.

        An empty page says that the request is about to be tried again, so that the caller can send a heartbeat.
        """
        token: str | None = None
        while True:
            for attempt in range(_MAX_LIST_ATTEMPTS):
                try:
                    page = self._list_page(bucket, prefix, token)
                    break
                except SourceUnavailable:
                    if attempt + 1 == _MAX_LIST_ATTEMPTS:
                        raise
                    yield []
                    time.sleep(_LIST_BACKOFF_S * (attempt + 1))
            yield [
                RemoteObject(self.scheme, bucket, entry["Key"], "", entry["Size"], entry.get("ETag", ""))
                for entry in page.get("Contents", ())
            ]
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return

    def head(self, remote: RemoteObject) -> ObjectHead:
        """Ask for the object as it is now; learns the bucket's route on the way."""
        with s3_errors.as_domain_errors(remote.uri):
            self._last_request.value = None
            response = self._client.head_object(ChecksumMode="ENABLED", **self._address(remote))
            if remote.bucket not in self._routes:
                anonymous = self._credentials is None
                self._routes[remote.bucket] = route_of(self._last_request.value, remote.key, anonymous=anonymous)
            return ObjectHead.from_response(response)

    def stored_parts(self, remote: RemoteObject, count: int) -> list[StoredPart]:
        """Return the `count` parts in which the object was uploaded, in order; [] when the answer does not tell."""
        with s3_errors.as_domain_errors(remote.uri):
            return stored_parts(self._client, self._address(remote), remote.size, count)

    def open(self, remote: RemoteObject, first: int, last: int) -> tuple[ObjectHead, Body]:
        """Open bytes first..last through botocore: slow, but works through proxies, redirects and any framing."""
        whole = remote.size == 0 or (first == 0 and last == remote.size - 1)
        extra = {"ChecksumMode": "ENABLED"} if whole else {"Range": f"bytes={first}-{last}"}
        if remote.etag:
            extra["IfMatch"] = remote.etag
        with s3_errors.as_domain_errors(remote.uri):
            response = self._client.get_object(**extra, **self._address(remote))
            length = response.get("ContentLength", last - first + 1)  # a chunked answer has none
            expected = f"bytes {first}-{last}/{remote.size}"
            if length != last - first + 1 or (not whole and response.get("ContentRange") != expected):
                received = response.get("ContentRange", "no range")
                response["Body"].close()
                raise SourceUnavailable(
                    f"{remote.uri}: asked for {expected}, got {received}, {length} bytes; it is tried again"
                )
            body = response["Body"]._raw_stream  # noqa: SLF001 - the engine's checksum replaces that of the wrapper
            return ObjectHead.from_response(response), body

    def route(self, remote: RemoteObject) -> Route:
        """Return where the object's bucket is. Costs one HEAD the first time that a bucket is met."""
        route = self._routes.get(remote.bucket)
        if route is None:
            self.head(remote)
            route = self._routes[remote.bucket]
        return route

    def request(self, route: Route, remote: RemoteObject, generation: str | None, headers: Mapping[str, str]) -> bytes:
        """Return the head of a signed GET, ready to send; see `RangeRequests.head`."""
        with s3_errors.as_domain_errors(f"{self.scheme}://{remote.bucket}"):
            return self._range_requests.head(route, remote, generation, headers)

    def refresh_credentials(self) -> None:
        """Fetch new credentials after the object store called them expired; does nothing for static ones.

        Many callers at once cause one refresh.
        """
        credentials = self._credentials
        with self._refreshing:
            if credentials is not None and hasattr(credentials, "_protected_refresh"):
                credentials._protected_refresh(is_mandatory=True)  # noqa: SLF001 - botocore has no public way

    def close(self) -> None:
        self._client.close()

    def _list_page(self, bucket: str, prefix: str, token: str | None) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if token:
            arguments["ContinuationToken"] = token
        if self._settings.requester_pays:
            arguments["RequestPayer"] = "requester"
        with s3_errors.as_domain_errors(f"{self.scheme}://{bucket}/{prefix}"):
            page: Mapping[str, Any] = self._client.list_objects_v2(**arguments)
            return page

    def _address(self, remote: RemoteObject) -> dict[str, Any]:
        """Return botocore's arguments that name an object, and what is needed to read it."""
        address: dict[str, Any] = {"Bucket": remote.bucket, "Key": remote.key}
        if remote.version_id:
            address["VersionId"] = remote.version_id
        if self._settings.requester_pays:
            address["RequestPayer"] = "requester"
        if key := self._settings.sse_c_key:
            address |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": decode_base64(key)}
        return address

    def _remember_request(self, request: Any, **_: Any) -> None:
        self._last_request.value = request


class Origins:
    """The origins of a process, one a scheme, each connected on first use. Thread-safe."""

    def __init__(self, settings: OriginSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._origins: dict[str, Origin] = {}

    def of(self, scheme: str) -> Origin:
        """Return the origin of a scheme. Raises AccessDenied (no credentials), InvalidRequest (wrong settings)."""
        with self._lock:
            origin = self._origins.get(scheme)
            if origin is None:
                try:
                    origin = self._origins[scheme] = Origin(scheme, self._settings)
                except NoCredentialsError as error:
                    raise AccessDenied(f"{scheme}://: {error}; {s3_errors.GIVE_CREDENTIALS}") from error
                except (BotoCoreError, ValueError) as error:
                    raise InvalidRequest(
                        f"{scheme}://: the object store's settings are wrong: {error};"
                        " mend AWS_* or KUBE_CACHE_ORIGIN__* of the agent and the operator"
                    ) from error
            return origin

    def close(self) -> None:
        with self._lock:
            for origin in self._origins.values():
                origin.close()
            self._origins.clear()
