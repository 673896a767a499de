"""The object stores' control plane, on botocore: LIST, HEAD, part lists, and how to reach and sign for a bucket.

botocore knows credentials and their refresh, endpoints, regions, redirects and config files; nobody should write those again.
The hot path, ranged GETs, is not here but in `engine`; this module tells it where a bucket lives (`route`) and signs each of
its requests. Only reads: nothing in the product ever writes to a source.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from kube_cache.dataset.checksums import Declared, declared, unbase64
from kube_cache.dataset.transfer import RemoteObject
from kube_cache.errors import AccessDenied, InvalidRequest, SourceUnavailable
from kube_cache.origin import botocore_data, s3_errors
from kube_cache.origin.settings import OriginSettings
from kube_cache.origin.signing import Keys, Signer

# Two attempts must end before the 10 s in which the caller promised a heartbeat.
_CONNECT_TIMEOUT_S: Final = 2
_READ_TIMEOUT_S: Final = 4
_ATTEMPTS: Final = 2
_LIST_ATTEMPTS: Final = 3
_LIST_BACKOFF_S: Final = 1.0
_PARTS_ASKED: Final = 64
_KEY_SAFE: Final = "/~-._"  # botocore's own choice for a key in a path


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What HEAD says. parts: number of parts that it was uploaded in, 0 when not told."""

    size: int
    etag: str
    version_id: str | None
    generation: str | None
    checksum: Declared | None
    parts: int


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as uploaded; `value` is its checksum in the object's algorithm, empty when not kept."""

    size: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """Where a bucket's objects are, as botocore found out (endpoint, addressing, redirected region)."""

    tls: bool
    host: str
    port: int
    host_header: str
    base_path: str
    region: str
    direct: bool
    """False: only botocore can go there (a proxy, session authentication); the engine falls back to it."""


class Body(Protocol):
    def read(self, amt: int) -> bytes: ...
    def close(self) -> None: ...


class Origin:
    """One scheme's store. Thread-safe; errors are `kube_cache.errors` that name bucket, key, reason and remedy."""

    def __init__(self, scheme: str, settings: OriginSettings) -> None:
        self.scheme = scheme
        self._settings = settings
        self._lock = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._signers: dict[str, Signer] = {}
        self._extra = _extra_headers(settings)
        self._sent = threading.local()
        session = botocore.session.Session()
        session.register_component("data_loader", botocore_data.loader(session.get_config_variable("data_path")))
        # Every SDK but botocore reads AWS_REGION.
        session.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
        self._session = session
        self._client = _client(session, scheme, settings)
        self._credentials = None if settings.anonymous else self._client._request_signer._credentials  # noqa: SLF001 - the client's own, so that both planes refresh one object
        self._client.meta.events.register_last("before-send.s3", self._remember)
        ca = session.get_config_variable("ca_bundle") or get_cert_path(verify=True)
        self.ca_bundle: str = str(ca)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        """Pages of everything whose key begins with `prefix`, in order. An empty page means "still trying"."""
        token: str | None = None
        while True:
            for attempt in range(_LIST_ATTEMPTS):
                try:
                    page = self._list_page(bucket, prefix, token)
                    break
                except SourceUnavailable:
                    if attempt + 1 == _LIST_ATTEMPTS:
                        raise
                    yield []
                    time.sleep(_LIST_BACKOFF_S * (attempt + 1))
            yield [
                RemoteObject(self.scheme, bucket, each["Key"], "", each["Size"], each.get("ETag", ""))
                for each in page.get("Contents", ())
            ]
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return

    def head(self, found: RemoteObject) -> ObjectHead:
        """Size, pins and checksum of the object as it is now."""
        with _Translated(found.uri):
            self._forget_sent()
            answer = self._client.head_object(ChecksumMode="ENABLED", **self._address(found))
            self._learn_route(found.bucket, found.key)
            return self._head_of(answer)

    def stored_parts(self, found: RemoteObject, count: int) -> list[StoredPart]:
        """The `count` parts in which the object was uploaded, in order; empty when the store does not tell."""
        with _Translated(found.uri):
            return self._parts_by_attributes(found) or self._parts_by_head(found, count)

    def _parts_by_attributes(self, found: RemoteObject) -> list[StoredPart]:
        arguments = {**self._address(found), "ObjectAttributes": ["ObjectParts"], "MaxParts": 1000}
        result: list[StoredPart] = []
        while True:
            try:
                answer = self._client.get_object_attributes(**arguments).get("ObjectParts", {})
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in {400, 403, 404, 405, 501}:
                    return []  # needs a permission of its own, and not every store knows it
                raise
            result += [_stored_part(each) for each in answer.get("Parts", ())]
            if not answer.get("IsTruncated"):
                return result
            arguments["PartNumberMarker"] = answer["NextPartNumberMarker"]

    def _parts_by_head(self, found: RemoteObject, count: int) -> list[StoredPart]:
        """Sizes only. With very many parts, the first size for all, if the arithmetic, a middle one and the last agree."""

        def size_of(number: int) -> int:
            return int(self._client.head_object(PartNumber=number, **self._address(found))["ContentLength"])

        try:
            if count <= _PARTS_ASKED:
                sizes = [size_of(number) for number in range(1, count + 1)]
            else:
                sizes = [size_of(1)] * (count - 1)
                sizes.append(found.size - sum(sizes))
                if size_of(count // 2) != sizes[0] or size_of(count) != sizes[-1]:
                    return []
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                raise
            return []
        return [StoredPart(size, b"") for size in sizes] if sum(sizes) == found.size else []

    def open(self, found: RemoteObject, first: int, last: int) -> tuple[ObjectHead, Body]:
        """Bytes first..last through botocore: slow, but it copes with proxies, redirects and any framing."""
        what = found.uri
        whole = found.size == 0 or (first == 0 and last == found.size - 1)
        extra = {"ChecksumMode": "ENABLED"} if whole else {"Range": f"bytes={first}-{last}"}
        if found.etag:
            extra["IfMatch"] = found.etag
        with _Translated(what):
            answer = self._client.get_object(**extra, **self._address(found))
            length = answer.get("ContentLength", last - first + 1)  # a chunked answer has none
            wanted = f"bytes {first}-{last}/{found.size}"
            if length != last - first + 1 or (not whole and answer.get("ContentRange") != wanted):
                got = answer.get("ContentRange", "no range")
                answer["Body"].close()
                raise SourceUnavailable(f"{what}: asked for {wanted}, got {got}, {length} bytes; it is tried again")
            return self._head_of(answer), answer["Body"]._raw_stream  # noqa: SLF001 - our own checksum replaces the stream's

    def route(self, found: RemoteObject) -> Route:
        """Where `found`'s bucket is; asks the store (one HEAD) the first time that a bucket is seen."""
        route = self._routes.get(found.bucket)
        if route is None:
            self.head(found)
            route = self._routes[found.bucket]
        return route

    def request(self, route: Route, found: RemoteObject, generation: str | None, headers: Mapping[str, str]) -> bytes:
        """The head of a signed GET for `found`, ready to send; `headers` are the range and the conditions."""
        path = route.base_path + quote(found.key, safe=_KEY_SAFE)
        query = ""
        if found.version_id:
            query = f"?versionId={quote(found.version_id, safe='')}"
        elif generation:
            query = f"?generation={generation}"
        headers = {**headers, **self._extra}
        if self._credentials is not None:
            with _Translated(f"{self.scheme}://{found.bucket}"):
                frozen = self._credentials.get_frozen_credentials()
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
            headers = self._signer(route.region).sign(keys, route.host_header, path, query[1:], headers)
        # Not signed, since Google's front end changes it. GCS would unpack what is stored packed if we did not take gzip.
        accept = "gzip" if self.scheme == "gs" else "identity"
        lines = [f"GET {path}{query} HTTP/1.1", f"Host: {route.host_header}", f"Accept-Encoding: {accept}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _signer(self, region: str) -> Signer:
        signer = self._signers.get(region)
        if signer is None:
            signer = self._signers[region] = Signer(region)
        return signer

    def refresh_credentials(self) -> None:
        """After the store called them expired; does nothing for static ones, and only once for many callers."""
        credentials = self._credentials
        with self._lock:
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
        with _Translated(f"{self.scheme}://{bucket}/{prefix}"):
            page: Mapping[str, Any] = self._client.list_objects_v2(**arguments)
            return page

    def _address(self, found: RemoteObject) -> dict[str, Any]:
        address: dict[str, Any] = {"Bucket": found.bucket, "Key": found.key}
        if found.version_id:
            address["VersionId"] = found.version_id
        if self._settings.requester_pays:
            address["RequestPayer"] = "requester"
        if key := self._settings.sse_c_key:
            address |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": unbase64(key)}
        return address

    def _head_of(self, answer: Mapping[str, Any]) -> ObjectHead:
        headers: Mapping[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
        return ObjectHead(
            size=int(answer.get("ContentLength", 0)),
            etag=answer.get("ETag", ""),
            version_id=answer.get("VersionId"),
            generation=headers.get("x-goog-generation"),
            checksum=declared(headers),
            parts=int(answer.get("PartsCount", 0)),
        )

    def _remember(self, request: Any, **_: Any) -> None:
        self._sent.request = request

    def _forget_sent(self) -> None:
        self._sent.request = None

    def _learn_route(self, bucket: str, key: str) -> None:
        """From the request that the store has just answered: whatever rule or redirect made its URL has been applied."""
        if bucket in self._routes:
            return
        request = self._sent.request
        url = urlsplit(request.url)
        tail = quote(key, safe=_KEY_SAFE)
        signature = str(_text(request.headers.get("Authorization", "")))
        scope = signature.partition("Credential=")[2].partition(",")[0].split("/")
        region, service = (scope[-3], scope[-2]) if len(scope) >= 5 else ("", "s3")
        proxied = bool(get_environ_proxies(request.url))
        self._routes[bucket] = Route(
            tls=url.scheme == "https",
            host=url.hostname or "",
            port=url.port or (443 if url.scheme == "https" else 80),
            host_header=url.netloc.removesuffix(":443" if url.scheme == "https" else ":80"),
            base_path=url.path.removesuffix(tail),
            region=region,
            direct=not proxied
            and service == "s3"
            and url.path.endswith(tail)
            and (bool(region) or self._credentials is None),
        )


class _Translated:
    """botocore's errors as ours, without botocore's frames: those hold the answer, and with it a socket, for as long as
    somebody keeps the error. (A generator-based context manager would keep them, too.)
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: object) -> None:
        del frames
        if isinstance(error, ClientError | BotoCoreError):
            raise s3_errors.of_botocore(error, what=self._what) from error.with_traceback(None)


class Origins:
    """The stores of a process, made on first use."""

    def __init__(self, settings: OriginSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stores: dict[str, Origin] = {}

    def of(self, scheme: str) -> Origin:
        with self._lock:
            store = self._stores.get(scheme)
            if store is None:
                try:
                    store = self._stores[scheme] = Origin(scheme, self._settings)
                except NoCredentialsError as error:
                    raise AccessDenied(f"{scheme}://: {error}") from error
                except (BotoCoreError, ValueError) as error:
                    raise InvalidRequest(f"{scheme}://: the object store's settings are wrong: {error}") from error
            return store

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()


def _client(session: botocore.session.Session, scheme: str, settings: OriginSettings) -> Any:
    arguments: dict[str, Any] = {}
    if scheme == "gs":
        endpoint: str | None = settings.gs_endpoint
        arguments |= {"endpoint_url": endpoint, "region_name": "auto"}
        if settings.gs_access_key:
            arguments["aws_access_key_id"] = settings.gs_access_key
            arguments["aws_secret_access_key"] = settings.gs_secret_key
    else:
        endpoint = ConfiguredEndpointProvider(
            full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
        ).provide()
        if endpoint and not session.get_config_variable("region"):
            arguments["region_name"] = "us-east-1"  # what every store that is not AWS answers to
    addressing = settings.addressing
    if addressing == "auto" and endpoint and ".amazonaws." not in endpoint:
        addressing = "path"
    options: dict[str, Any] = {"signature_version": UNSIGNED} if settings.anonymous else {}
    options["s3"] = {"addressing_style": addressing}
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=64,
        # GCS refuses the headers, and what the engine fetches it checks itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **options,
    )
    return session.create_client("s3", config=config, **arguments)


def _extra_headers(settings: OriginSettings) -> dict[str, str]:
    headers: dict[str, str] = {}
    if settings.requester_pays:
        headers["x-amz-request-payer"] = "requester"
    if key := settings.sse_c_key:
        prefix = "x-amz-server-side-encryption-customer"
        digest = hashlib.md5(unbase64(key), usedforsecurity=False).digest()
        headers |= {
            f"{prefix}-algorithm": "AES256",
            f"{prefix}-key": key,
            f"{prefix}-key-MD5": base64.b64encode(digest).decode(),
        }
    return headers


def _stored_part(each: Mapping[str, Any]) -> StoredPart:
    values = (each[name] for name in each if name.startswith("Checksum"))
    return StoredPart(int(each["Size"]), unbase64(next(values, "")))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
