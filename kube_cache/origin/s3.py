"""Object storage behind the port `kube_cache.dataset.source`: Amazon S3, servers like it, and Google Cloud Storage.

LIST, HEAD and part lists go over botocore. The hot path, ranged GETs, goes over the engine's own connections: this
module writes and signs each of these requests, and judges the answers. Only reads: nothing in the product ever writes
to an origin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from kube_cache.dataset import etags
from kube_cache.dataset.checksums import DeclaredChecksum, declared_checksum, decode_base64
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import (
    Answer,
    CredentialsExpired,
    ObjectHead,
    Piece,
    Request,
    Retry,
    Server,
    StoredPart,
    Trust,
    UnsupportedAnswer,
)
from kube_cache.errors import AccessDenied, InvalidRequest, SourceChanged, SourceUnavailable
from kube_cache.origin import answers, s3_errors
from kube_cache.origin.allowed import SETTING, AllowedBuckets, parse_patterns
from kube_cache.origin.botocore_body import BotocoreBody
from kube_cache.origin.client import ca_bundle, create_client, create_session, missing_credentials
from kube_cache.origin.current_keys import CurrentKeys
from kube_cache.origin.object_head import object_head
from kube_cache.origin.range_request import RangeRequests
from kube_cache.origin.routes import Route, route_of
from kube_cache.origin.settings import OriginSettings
from kube_cache.origin.stored_parts import stored_parts
from kube_cache.origin.versions import UNLIKELY_ETAG, Match, Versions, compare
from kube_cache.telemetry import redaction

_log = logging.getLogger("kube_cache.origin")
# On top of botocore's own attempts; between two of them the caller sends its heartbeat.
_MAX_LIST_ATTEMPTS: Final = 3
_LIST_BACKOFF_S: Final = 1.0


class S3Origin:
    """The object storage of one scheme: implements `kube_cache.dataset.source.Origin`.

    Methods that ask the object store raise the errors of `s3_errors`, such as AccessDenied or SourceUnavailable.
    """

    name = "origin"

    def __init__(self, scheme: str, settings: OriginSettings, allowed: AllowedBuckets) -> None:
        self.scheme = scheme
        self._allowed = allowed
        self._settings = settings
        self._refreshing = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._last_request = threading.local()
        session = create_session()
        self._client = create_client(session, scheme, settings)
        self.trust = Trust(ca_bundle(session), remedy=s3_errors.TRUST_AUTHORITY)
        self._tls = str(self._client.meta.endpoint_url).startswith("https:")
        # The client's own credentials, so that both planes refresh one object.
        self._credentials = None if settings.anonymous else self._client._request_signer._credentials  # noqa: SLF001
        self._keys = CurrentKeys(self._credentials)
        self._range_requests = RangeRequests(settings, self._keys)
        self._client.meta.events.register_last("before-send.s3", self._remember_request)
        self._versions = Versions(self._head, self._heeds_conditions)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        """Yield pages of the objects whose keys begin with `prefix`, in key order.

        An empty page says that the request is about to be tried again, so that the caller can send a heartbeat.
        Raises BucketNotAllowed as well.
        """
        self._allowed.check(self.scheme, bucket, prefix)
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
                RemoteObject(
                    self.scheme,
                    bucket,
                    entry["Key"],
                    "",
                    entry["Size"],
                    etags.canonical(entry.get("ETag", "")),
                    None,
                    int(entry["LastModified"].timestamp()) if "LastModified" in entry else 0,
                )
                for entry in page.get("Contents", ())
            ]
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return

    def head(self, remote: RemoteObject) -> ObjectHead:
        head = self._head(remote)
        if head.size not in {None, remote.size}:
            raise SourceChanged(
                f"{remote.uri} was replaced since it was listed (it has {head.size} bytes and had {remote.size}); it is"
                " resolved again",
                bucket=remote.bucket,
                key=remote.key,
            )
        # An answer that tells nothing is no reason to end here: each GET's answer is compared as well.
        if compare(remote, head.etag, head.modified) is Match.OTHER:
            raise self._versions.changed(remote, head.etag, head.modified)
        return head

    def parts(self, remote: RemoteObject, count: int) -> list[StoredPart]:
        with s3_errors.as_domain_errors(remote.uri):
            return stored_parts(self._client, self._address(remote), remote.size, count)

    def request(self, piece: Piece) -> Request | None:
        """Return the signed GET. The first one for a bucket costs a HEAD, which tells where the bucket is."""
        remote = piece.object
        route = self._route(remote)
        if not route.direct:
            return None
        headers: dict[str, str] = {}
        if condition := self._versions.condition(remote):
            headers["If-Match"] = condition
        if not piece.whole:
            headers["Range"] = f"bytes={piece.first}-{piece.last}"
        elif remote.scheme == "s3":
            headers["x-amz-checksum-mode"] = "ENABLED"
        with s3_errors.as_domain_errors(f"{self.scheme}://{remote.bucket}"):
            data = self._range_requests.head(route, remote, piece.generation, headers)
        return Request(Server(route.tls, route.host, route.port), self.trust if route.tls else None, data)

    def accept(self, piece: Piece, answer: Answer) -> DeclaredChecksum | None:
        remote = piece.object
        if answer.status >= 300:
            raise self._refusal(remote, answer)
        etag = answer.headers.get("etag", "")
        if not remote.etag or etag != remote.etag:
            self._versions.check(remote, etags.canonical(etag), answers.last_modified_s(answer))
        return declared_checksum(answer.headers) if piece.whole else None

    def open(self, piece: Piece) -> BotocoreBody:
        """Open the piece through botocore: slow, but works through proxies, redirects and any framing.

        Raises SourceChanged, OriginUnsuitable as well.
        """
        remote = piece.object
        whole = remote.size == 0 or (piece.first == 0 and piece.last == remote.size - 1)
        extra = {"ChecksumMode": "ENABLED"} if whole else {"Range": f"bytes={piece.first}-{piece.last}"}
        if condition := self._versions.condition(remote):
            extra["IfMatch"] = condition
        try:
            with s3_errors.as_domain_errors(remote.uri):
                response = self._client.get_object(**extra, **self._address(remote))
        except SourceChanged as error:
            if condition and not self._versions.is_replaced(remote):
                raise SourceUnavailable(f"{remote.uri}: If-Match is refused; tried again without") from error
            raise
        try:
            head = self._check_answer(piece, response, whole=whole)
        except BaseException:
            response["Body"].close()
            raise
        raw = response["Body"]._raw_stream  # noqa: SLF001 - the engine's checksum replaces that of the wrapper
        return BotocoreBody(raw, remote.uri, head.checksum, tls=self._tls)

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

    def _head(self, remote: RemoteObject) -> ObjectHead:
        """Ask for the object, whichever version that is; learn the bucket's route on the way."""
        with s3_errors.as_domain_errors(remote.uri):
            self._last_request.value = None
            response = self._client.head_object(ChecksumMode="ENABLED", **self._address(remote))
            if remote.bucket not in self._routes:
                anonymous = self._credentials is None
                self._routes[remote.bucket] = route_of(self._last_request.value, remote.key, anonymous=anonymous)
            return object_head(response)

    def _route(self, remote: RemoteObject) -> Route:
        route = self._routes.get(remote.bucket)
        if route is None:
            self._head(remote)
            route = self._routes[remote.bucket]
        return route

    def _refusal(self, remote: RemoteObject, answer: Answer) -> Exception:
        """Return the error that a status of 300 or more means."""
        code, message = answers.error_code(answer.body)
        if 300 <= answer.status < 400 or code in s3_errors.ELSEWHERE:
            self._routes.pop(remote.bucket, None)  # learnt anew from the next HEAD
            return UnsupportedAnswer(f"redirected ({answer.status} {code})")
        if code in s3_errors.EXPIRED:
            return CredentialsExpired(f"{remote.uri}: {code}", self.refresh_credentials)
        if answer.status == HTTPStatus.PRECONDITION_FAILED and not self._versions.is_replaced(remote):
            return Retry(f"{remote.uri}: If-Match is refused; tried again without")
        return answers.error_of(remote, answer, code, message)

    def _check_answer(self, piece: Piece, response: Mapping[str, Any], *, whole: bool) -> ObjectHead:
        """Check that botocore's body is the piece. Raises SourceChanged and others."""
        remote = piece.object
        head = object_head(response)
        self._versions.check(remote, head.etag, head.modified)
        wanted = piece.last - piece.first + 1
        length = response.get("ContentLength", wanted)  # a chunked answer has none
        expected = f"bytes {piece.first}-{piece.last}/{remote.size}"
        if length != wanted or (not whole and response.get("ContentRange") != expected):
            received = response.get("ContentRange", "no range")
            raise SourceUnavailable(
                f"{remote.uri}: asked for {expected}, got {received}, {length} bytes; it is tried again"
            )
        return head

    def _heeds_conditions(self, remote: RemoteObject) -> bool:
        """Check that a GET with an ETag that no object has is refused."""
        try:
            answer = self._client.get_object(Range="bytes=0-0", IfMatch=UNLIKELY_ETAG, **self._address(remote))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PRECONDITION_FAILED:
                return True
            raise s3_errors.from_botocore(error, resource=remote.uri) from error.with_traceback(None)
        except BotoCoreError as error:
            raise s3_errors.from_botocore(error, resource=remote.uri) from error.with_traceback(None)
        answer["Body"].close()
        return False

    def _remember_request(self, request: Any, **_: Any) -> None:
        self._last_request.value = request
        self._keys.get()  # a listing process signs nothing itself, and must not log them either


class Origins:
    """Implements `kube_cache.dataset.source.Origins`: each origin is connected on first use."""

    def __init__(self, settings: OriginSettings, *, process: str = "agent or operator") -> None:
        """process: who asks, for messages that tell where a setting is missing."""
        self._settings = settings
        self._process = process
        self._allowed = AllowedBuckets(parse_patterns(settings.allowed_buckets))
        redaction.hide(settings.sse_c_key, settings.gs_secret_key)
        _log.info(
            "datasets may name %s (%s)", ", ".join(self._allowed.patterns) or "every bucket that can be read", SETTING
        )
        self._lock = threading.Lock()
        self._origins: dict[str, S3Origin] = {}

    def of(self, scheme: str) -> S3Origin:
        """Return the origin of a scheme. Raises AccessDenied (no credentials), InvalidRequest (wrong settings)."""
        with self._lock:
            origin = self._origins.get(scheme)
            if origin is None:
                if missing := missing_credentials(scheme, self._settings):
                    raise AccessDenied(
                        f"{scheme}://: the {self._process} has no {missing}, the HMAC key of Google Cloud Storage; set it"
                        f" in the environment of the {self._process} (AWS credentials are not sent to Google), or"
                        " KUBE_CACHE_ORIGIN__ANONYMOUS=true for public buckets"
                    )
                try:
                    origin = self._origins[scheme] = S3Origin(scheme, self._settings, self._allowed)
                except NoCredentialsError as error:
                    raise AccessDenied(f"{scheme}://: {error}; {s3_errors.GIVE_CREDENTIALS}") from error
                except PartialCredentialsError as error:
                    raise AccessDenied(
                        f"{scheme}://: the {self._process} has half of its credentials ({error}); set what is missing"
                        f" where the other half is, in the environment or the credentials file of the {self._process}"
                        " (the secret that its Pod names), or remove that half to use a role"
                    ) from error
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
