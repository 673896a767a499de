"""Turns a dataset's URI into a manifest: which objects, where each goes, and one digest over all of them.

Keys come from everybody who may write to the bucket, so each is judged before it becomes a path. A key that would leave
the dataset's directory, or that no disk can hold, is refused by name rather than rewritten: the user's program would
not find a renamed file. Fetches nothing; checksums come with the bytes (docs/design/snapshot-digest.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.uri import CONTROL_CHARACTER, MAX_NAME_BYTES, DatasetUri
from kube_cache.errors import AmbiguousDataset, DatasetNotFound, OriginUnsuitable, UnsafeKey

_MAX_PATH_BYTES: Final = 3072  # leaves a quarter of PATH_MAX (4096) for the store's own directories
_DIGEST_DOMAIN: Final = b"kube-cache snapshot v1\0"


class Lister(Protocol):
    """The part of an origin that a listing needs; `s3.Origin` is one."""

    scheme: str

    def list_objects(self, bucket: str, prefix: str) -> Iterable[list[RemoteObject]]:
        """Yield pages of the objects whose keys begin with `prefix`, in key order; their `path` is not set yet."""
        ...


def list_dataset(
    origin: Lister, uri: DatasetUri, *, on_page: Callable[[int], None] = lambda _seen_keys: None
) -> Manifest:
    """List what `uri` holds now.

    on_page: called after each page with the number of keys seen so far; may raise to stop.
    Raises UnsafeKey, AmbiguousDataset, DatasetNotFound, AccessDenied, BucketNotAllowed, OriginUnsuitable,
    SourceUnavailable.
    """
    listing = _Listing(uri)
    prefix: str | None = uri.prefix
    while prefix is not None:
        prefix = _read(origin, listing, prefix, on_page)
    objects = listing.objects()
    return Manifest(uri, digest(uri, objects), objects, sum(remote.size for remote in objects))


def _read(origin: Lister, listing: _Listing, prefix: str, on_page: Callable[[int], None]) -> str | None:
    """Add the objects under `prefix`, or return a prefix to go on with: skips neighbours that LIST would also show.

    LIST is in key order, so `p` comes first, then `p-…`, then `p/…`, then `pq…`. Directory buckets have no order.
    """
    ordered = not listing.uri.bucket.endswith("--x-s3")
    for page in origin.list_objects(listing.uri.bucket, prefix):
        for remote in page:
            if ordered and listing.is_past(remote):
                on_page(listing.seen_keys)
                return None
            listing.add(remote)
        on_page(listing.seen_keys)
        if ordered and page and prefix != listing.folder and page[-1].key < listing.folder:
            return listing.folder
    return None


def digest(uri: DatasetUri, objects: Iterable[RemoteObject]) -> str:
    """Return the SHA-256 (hex) over the URI, less a trailing slash, and the objects ordered by path.

    The URI is part of the digest because it is part of where Pods mount the snapshot: equal objects in two buckets are
    two snapshots. Each field is preceded by its length, so that two different lists never hash the same bytes.
    """
    hasher = hashlib.sha256(_DIGEST_DOMAIN)
    fields = [str(uri).rstrip("/")]
    for remote in sorted(objects, key=lambda remote: remote.path.encode()):
        fields += [remote.path, remote.key, str(remote.size), remote.pin]
    for text in fields:
        encoded = text.encode()
        hasher.update(len(encoded).to_bytes(8, "big"))
        hasher.update(encoded)
    return hasher.hexdigest()


class _Listing:
    """Collects pages. `s3://b/p` means the object `p` or everything under `p/`, never `pq`, which LIST also shows."""

    def __init__(self, uri: DatasetUri) -> None:
        self.seen_keys = 0
        self.uri = uri
        self.folder = uri.prefix if uri.prefix in {"", "/"} or uri.prefix.endswith("/") else f"{uri.prefix}/"
        self._single: RemoteObject | None = None
        self._has_marker = False
        self._under: list[RemoteObject] = []

    def add(self, remote: RemoteObject) -> None:
        self.seen_keys += 1
        if remote.key == self.uri.prefix and not remote.key.endswith("/"):
            self._single = remote
        elif remote.key.startswith(self.folder):
            if remote.key.endswith("/") and remote.size == 0:
                self._has_marker = True  # a console's "folder": an empty object that stands for a directory
            else:
                self._under.append(_with_path(remote, remote.key.removeprefix(self.folder)))

    def is_past(self, remote: RemoteObject) -> bool:
        """Whether the dataset ends before `remote`. Keys are ordered by their UTF-8 bytes, as code points are."""
        return remote.key > self.folder and not remote.key.startswith(self.folder)

    def objects(self) -> tuple[RemoteObject, ...]:
        uri = self.uri
        if self._single is not None:
            if self._under:
                raise AmbiguousDataset(
                    f"{uri} is an object and also a folder of {len(self._under)} objects;"
                    f" write {uri}/ for the folder, or rename one of the two",
                    uri=str(uri),
                )
            return (_with_path(self._single, uri.prefix.rpartition("/")[2]),)
        if not self._under:
            raise DatasetNotFound(self._not_found(), uri=str(uri))
        _refuse_files_that_are_folders(self._under)
        return tuple(self._under)

    def _not_found(self) -> str:
        uri = self.uri
        if self._has_marker:
            return f"{uri} is an empty folder: there is nothing to fetch; upload the data or mend the annotation"
        if uri.prefix == "":
            return f"the bucket {uri.bucket} is empty; upload the data or name another bucket"
        near = f" ({self.seen_keys} keys only begin with the same letters)" if self.seen_keys else ""
        return f"nothing is at {uri} or under it{near}; check the prefix, or upload the data and retry"


def _with_path(remote: RemoteObject, path: str) -> RemoteObject:
    _check_path(remote, path)
    if not remote.etag and not remote.modified:
        raise OriginUnsuitable(
            f"{remote.uri}: the object store lists it with neither ETag nor LastModified, so that a later version could"
            " not be told from this one; use an object store, or a proxy before it, that lists them",
            bucket=remote.bucket,
            key=remote.key,
        )
    return RemoteObject(
        remote.scheme, remote.bucket, remote.key, path, remote.size, remote.etag, remote.version_id, remote.modified
    )  # not replace(): a listing makes millions of these


def _check_path(remote: RemoteObject, path: str) -> None:
    if CONTROL_CHARACTER.search(path):
        raise _unsafe(remote, "holds a control character")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise _unsafe(remote, "is not valid UTF-8") from None
    if len(encoded) > _MAX_PATH_BYTES:
        raise _unsafe(remote, f"makes a path of {len(encoded)} bytes; the maximum is {_MAX_PATH_BYTES}")
    for segment in path.split("/"):
        if segment == "":
            raise _unsafe(remote, "has an empty folder or file name ('//', or a slash at an end)")
        if segment in {".", ".."}:
            raise _unsafe(remote, f"has the folder {segment!r}, which would leave the dataset's directory")
        # A character has at most 4 bytes: most names need not be encoded to be short enough.
        if len(segment) > MAX_NAME_BYTES // 4 and len(segment.encode()) > MAX_NAME_BYTES:
            raise _unsafe(remote, f"has a name longer than {MAX_NAME_BYTES} bytes, which no disk can hold")


def _refuse_files_that_are_folders(objects: list[RemoteObject]) -> None:
    files = {remote.path: remote for remote in objects}
    folders: set[str] = set()
    for remote in objects:
        parent = remote.path.rpartition("/")[0]
        while parent and parent not in folders:
            if parent in files:
                raise _unsafe(files[parent], f"is a file, and {remote.key!r} makes a folder of it")
            folders.add(parent)
            parent = parent.rpartition("/")[0]


def _unsafe(remote: RemoteObject, reason: str) -> UnsafeKey:
    return UnsafeKey(
        f"key {remote.key!r} in {remote.scheme}://{remote.bucket} {reason};"
        " rename or remove the object, or narrow the prefix",
        bucket=remote.bucket,
        key=remote.key,
    )
