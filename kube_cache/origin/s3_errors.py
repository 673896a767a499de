"""What the object store or botocore said, in the project's own words.

One table for the control plane and for the data plane, so that a 403 reads the same whether a LIST or a range met it. Says
bucket, key, reason and remedy: the text ends on the user's Pod.
"""

from __future__ import annotations

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

_DENIED: Final = {
    "AccessDenied": "the credentials may not do this; grant s3:ListBucket on the bucket and s3:GetObject on its objects",
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID or the role",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired and could not be refreshed; renew the credentials",
    "InvalidToken": "the session token is invalid; renew the credentials",
    "TokenRefreshRequired": "the session token must be refreshed; renew the credentials",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's by minutes; set the clock",
    "InvalidObjectState": "the object is archived; restore it to a class that can be read, then retry",
    "AllAccessDisabled": "all access to the bucket is disabled; ask its owner",
}
EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
_THROTTLED: Final = frozenset(
    {"SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"}
)
_RETRIED_400: Final = frozenset({"RequestTimeout", "RequestTimeoutException", "IncompleteBody"})


def of_status(status: int, code: str, message: str, *, what: str) -> KubeCacheError:
    """An error answer. what: the thing asked for, as `s3://bucket/key`; code: S3's error code, which a HEAD does not give."""
    said = f"{code or status}{f': {message}' if message else ''}"
    if code.startswith("KMS."):
        return AccessDenied(
            f"{what}: its encryption key cannot be used ({said}); grant kms:Decrypt on the key, or enable it"
        )
    if code in _DENIED or status in {401, 403}:
        return AccessDenied(f"{what}: access denied ({said}); {_DENIED.get(code, _DENIED['AccessDenied'])}")
    if code == "NoSuchBucket":
        return DatasetNotFound(f"{what}: the bucket does not exist; check its name, the endpoint and the region")
    if status in {404, 410}:
        return DatasetNotFound(f"{what}: not found ({said}); check the key, or upload the data and retry")
    if status in {412, 416}:
        return SourceChanged(f"{what}: changed since it was listed ({said}); it is resolved again")
    if status in {429, 503} or code in _THROTTLED:
        return SourceUnavailable(
            f"{what}: the store asks to slow down ({said}); tried again with fewer requests", throttled=1
        )
    if status >= 500 or code in _RETRIED_400:
        return SourceUnavailable(f"{what}: the store failed ({said}); it is tried again")
    if status in {301, 302, 307, 308}:
        return SourceUnavailable(f"{what}: redirected ({said}); set AWS_REGION to the bucket's region")
    if code == "InvalidBucketName":
        return InvalidRequest(f"{what}: the store refuses the bucket's name ({said}); mend the annotation")
    return SourceUnavailable(f"{what}: the store refused the request ({said}); it is tried again")


def of_botocore(error: Exception, *, what: str) -> KubeCacheError:
    """An exception that botocore raised."""
    if isinstance(error, boto.ClientError):
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(answer.get("Code", ""))
        return of_status(int(status), "" if code.isdigit() else code, str(answer.get("Message", "")), what=what)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)):
        return AccessDenied(
            f"{what}: {error}; give the agent and the operator a role or AWS_ACCESS_KEY_ID and its secret"
        )
    if isinstance(error, boto.SSLError):
        return SourceUnavailable(f"{what}: TLS failed ({error}); for a private authority set AWS_CA_BUNDLE")
    if isinstance(
        error, (boto.ParamValidationError, boto.InvalidEndpointConfigurationError, boto.UnsupportedS3ConfigurationError)
    ):
        return InvalidRequest(f"{what}: {error}; mend the annotation or the endpoint")
    if isinstance(error, boto.EndpointConnectionError):
        return SourceUnavailable(
            f"{what}: cannot connect ({error}); check AWS_ENDPOINT_URL_S3 and the network; it is tried again"
        )
    return SourceUnavailable(f"{what}: no answer from the store ({type(error).__name__}: {error}); it is tried again")
