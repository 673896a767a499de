"""Translates what the object store or botocore answered into the project's errors.

One table for the control plane and for the data plane, so that a 403 reads the same whether a LIST or a range met it.
Each message names bucket, key, reason and remedy, because it is shown on the user's Pod. Decides nothing about retries:
the class of an error says whether one can help.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from botocore import exceptions as boto

from kube_cache.errors import (
    AccessDenied,
    DatasetNotFound,
    InvalidRequest,
    KubeCacheError,
    SourceChanged,
    SourceUnavailable,
)

GIVE_CREDENTIALS: Final = "give the agent and the operator a role or AWS_ACCESS_KEY_ID and its secret"
TRUST_AUTHORITY: Final = (
    "for a private authority set AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE, SSL_CERT_FILE) to a file with its root"
    " certificate; an intermediate alone is not enough, and the server must send its own"
)
EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
"""Codes that fresh credentials may mend."""
ELSEWHERE: Final = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect"}
)
"""Codes by which an object store says that a bucket is in another region, or at another endpoint."""

_DENIED: Final = {
    "AccessDenied": "the credentials may not do this; grant s3:ListBucket on the bucket and s3:GetObject on its objects",
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID or the role",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key, or a proxy changes requests on"
    " their way (one that caches, slices or drops Range); check AWS_SECRET_ACCESS_KEY and the proxy",
    "ExpiredToken": "the session token has expired and could not be refreshed; renew the credentials",
    "InvalidToken": "the session token is invalid; renew the credentials",
    "TokenRefreshRequired": "the session token must be refreshed; renew the credentials",
    "RequestTimeTooSkewed": "this machine's clock differs from the object store's by minutes; set the clock",
    "InvalidObjectState": "the object is archived; restore it to a class that can be read, then retry",
    "AllAccessDisabled": "all access to the bucket is disabled; ask its owner",
}
_THROTTLED: Final = frozenset(
    {"SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"}
)
_RETRIED_400: Final = frozenset({"RequestTimeout", "RequestTimeoutException", "IncompleteBody"})


def from_status(status: int, code: str, message: str, *, resource: str) -> KubeCacheError:
    """Translate an error answer.

    resource: what was asked for, as `s3://bucket/key`. code: S3's error code; empty for a HEAD, which has no body.
    """
    reason = f"{code or status}{f': {message}' if message else ''}"
    if code.startswith("KMS."):
        return AccessDenied(
            f"{resource}: its encryption key cannot be used ({reason}); grant kms:Decrypt on the key, or enable it"
        )
    if code in _DENIED or status in {401, 403}:
        remedy = _DENIED.get(code, _DENIED["AccessDenied"])
        # A HEAD's answer has no body, and so no code that would tell a broken signature from a missing right.
        hint = "" if code else "; a proxy that caches or slices breaks the signature, with the same answer"
        return AccessDenied(f"{resource}: access denied ({reason}); {remedy}{hint}")
    if code == "NoSuchBucket":
        return DatasetNotFound(f"{resource}: the bucket does not exist; check its name, the endpoint and the region")
    if status in {404, 410}:
        return DatasetNotFound(f"{resource}: not found ({reason}); check the key, or upload the data and retry")
    if status in {412, 416}:
        return SourceChanged(f"{resource}: changed since it was listed ({reason}); it is resolved again")
    if status in {429, 503} or code in _THROTTLED:
        return SourceUnavailable(
            f"{resource}: the object store asks to slow down ({reason}); tried again with fewer requests", throttled=1
        )
    if status >= 500 or code in _RETRIED_400:
        return SourceUnavailable(f"{resource}: the object store failed ({reason}); it is tried again")
    if status in {301, 302, 307, 308}:
        return SourceUnavailable(f"{resource}: redirected ({reason}); set AWS_REGION to the bucket's region")
    if code == "InvalidBucketName":
        return InvalidRequest(f"{resource}: the object store refuses the bucket's name ({reason}); mend the annotation")
    return SourceUnavailable(f"{resource}: the object store refused the request ({reason}); it is tried again")


def from_botocore(error: Exception, *, resource: str) -> KubeCacheError:
    """Translate an exception that botocore raised. resource: as for `from_status`."""
    if isinstance(error, boto.ClientError):
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(answer.get("Code", ""))
        message = str(answer.get("Message", ""))
        return from_status(int(status), "" if code.isdigit() else code, message, resource=resource)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)):
        return AccessDenied(f"{resource}: {error}; {GIVE_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return SourceUnavailable(f"{resource}: TLS failed ({error}); {TRUST_AUTHORITY}")
    if isinstance(
        error, (boto.ParamValidationError, boto.InvalidEndpointConfigurationError, boto.UnsupportedS3ConfigurationError)
    ):
        return InvalidRequest(f"{resource}: {error}; mend the annotation or the endpoint")
    if isinstance(error, boto.EndpointConnectionError):
        return SourceUnavailable(
            f"{resource}: cannot connect ({error}); check AWS_ENDPOINT_URL_S3 and the network; it is tried again"
        )
    return SourceUnavailable(
        f"{resource}: no answer from the object store ({type(error).__name__}: {error}); it is tried again"
    )


def as_domain_errors(resource: str) -> AbstractContextManager[None]:
    """Translate botocore's exceptions raised within. resource: as for `from_status`."""
    return _Translation(resource)


class _Translation:
    """Drops botocore's frames from the chained exception.

    They hold the answer, and with it a socket, for as long as somebody keeps the error. A generator-based context
    manager would keep them, too.
    """

    def __init__(self, resource: str) -> None:
        self._resource = resource

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: object) -> None:
        del frames
        if isinstance(error, boto.ClientError | boto.BotoCoreError):
            raise from_botocore(error, resource=self._resource) from error.with_traceback(None)
        if isinstance(error, RecursionError):  # botocore follows a redirect of the request that asks for the region
            raise SourceUnavailable(
                f"{self._resource}: redirected in a circle; check AWS_ENDPOINT_URL_S3 and AWS_REGION; it is tried again"
            ) from None
