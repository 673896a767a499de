"""A dataset's URI turned into a manifest: which objects, where each goes, and one digest over all of it.

Keys come from whoever may write to the bucket, so each is judged before it becomes a path: a key that would leave the
dataset's directory, or that no disk can hold, is refused by name rather than rewritten, because a renamed file is a file
that the user's program does not find. Fetches nothing; checksums come with the bytes (docs/design/snapshot-digest.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from kube_cache.dataset.transfer import Manifest, RemoteObject
from kube_cache.dataset.uri import CONTROL_CHARACTER, MAX_NAME_BYTES, DatasetUri
from kube_cache.errors import AmbiguousDataset, DatasetNotFound, UnsafeKey

_MAX_PATH_BYTES: Final = 3072  # leaves a quarter of PATH_MAX (4096) for the store's own directories
_DIGEST_DOMAIN: Final = b"kube-cache snapshot v1\0"


class Lister(Protocol):
    """What a listing needs of an object store; `s3.Origin` is one."""

    scheme: str

    def list_objects(self, bucket: str, prefix: str) -> Iterable[list[RemoteObject]]:
        """Pages of everything whose key begins with `prefix`, in order; `path` is not set yet."""
        ...


def list_dataset(store: Lister, uri: DatasetUri, *, beat: Callable[[int], None] = lambda _seen: None) -> Manifest:
    """What `uri` holds now. `beat` hears the number of keys seen after each page and may raise to stop.

    Raises UnsafeKey, AmbiguousDataset, DatasetNotFound, AccessDenied, SourceUnavailable.
    """
    listing = _Listing(uri)
    prefix: str | None = uri.prefix
    while prefix is not None:
        prefix = _read(store, listing, prefix, beat)
    objects = listing.objects()
    return Manifest(uri, digest(uri, objects), objects, sum(each.size for each in objects))


def _read(store: Lister, listing: _Listing, prefix: str, beat: Callable[[int], None]) -> str | None:
    """Add what LIST shows of `prefix`; a prefix to go on with instead, when that saves reading a crowd of neighbours.

    LIST is in key order, so `p` comes first, then `p-…`, then `p/…`, then `pq…`. Directory buckets have no order.
    """
    ordered = not listing.uri.bucket.endswith("--x-s3")
    for page in store.list_objects(listing.uri.bucket, prefix):
        for found in page:
            if ordered and listing.is_past(found):
                beat(listing.seen)
                return None
            listing.add(found)
        beat(listing.seen)
        if ordered and page and prefix != listing.folder and page[-1].key < listing.folder:
            return listing.folder
    return None


def digest(uri: DatasetUri, objects: Iterable[RemoteObject]) -> str:
    """SHA-256 (hex) over the URI, less a trailing slash, and the objects by path.

    The URI is part of it because it is part of where Pods mount the snapshot: equal objects of two buckets are two
    snapshots. Each field is preceded by its length, so that no two lists look alike.
    """
    hasher = hashlib.sha256(_DIGEST_DOMAIN)
    fields = [str(uri).rstrip("/")]
    for each in sorted(objects, key=lambda found: found.path.encode()):
        fields += [each.path, each.key, str(each.size), each.etag]
    for text in fields:
        encoded = text.encode()
        hasher.update(len(encoded).to_bytes(8, "big"))
        hasher.update(encoded)
    return hasher.hexdigest()


class _Listing:
    """Collects pages. `s3://b/p` means the object `p` or everything under `p/`, never `pq`, which LIST also shows."""

    def __init__(self, uri: DatasetUri) -> None:
        self.seen = 0
        self.uri = uri
        self.folder = uri.prefix if uri.prefix in {"", "/"} or uri.prefix.endswith("/") else f"{uri.prefix}/"
        self._single: RemoteObject | None = None
        self._marker = False
        self._under: list[RemoteObject] = []

    def add(self, found: RemoteObject) -> None:
        self.seen += 1
        if found.key == self.uri.prefix and not found.key.endswith("/"):
            self._single = found
        elif found.key.startswith(self.folder):
            if found.key.endswith("/") and found.size == 0:
                self._marker = True  # a console's "folder": an empty object that stands for a directory
            else:
                self._under.append(_placed(found, found.key.removeprefix(self.folder)))

    def is_past(self, found: RemoteObject) -> bool:
        """Nothing of this dataset comes after `found`. Keys are ordered by their UTF-8 bytes, as code points are."""
        return found.key > self.folder and not found.key.startswith(self.folder)

    def objects(self) -> tuple[RemoteObject, ...]:
        uri = self.uri
        if self._single is not None:
            if self._under:
                raise AmbiguousDataset(
                    f"{uri} is an object and also a folder of {len(self._under)} objects;"
                    f" write {uri}/ for the folder, or rename one of the two",
                    uri=str(uri),
                )
            return (_placed(self._single, uri.prefix.rpartition("/")[2]),)
        if not self._under:
            raise DatasetNotFound(self._missing(), uri=str(uri))
        _refuse_files_that_are_folders(self._under)
        return tuple(self._under)

    def _missing(self) -> str:
        uri = self.uri
        if self._marker:
            return f"{uri} is an empty folder: there is nothing to fetch; upload the data or mend the annotation"
        if uri.prefix == "":
            return f"the bucket {uri.bucket} is empty; upload the data or name another bucket"
        near = f" ({self.seen} keys only begin with the same letters)" if self.seen else ""
        return f"nothing is at {uri} or under it{near}; check the prefix, or upload the data and retry"


def _placed(found: RemoteObject, path: str) -> RemoteObject:
    _check_path(found, path)
    return RemoteObject(
        found.scheme, found.bucket, found.key, path, found.size, found.etag, found.version_id
    )  # not replace(): a listing makes millions of these


def _check_path(found: RemoteObject, path: str) -> None:
    if CONTROL_CHARACTER.search(path):
        raise _unsafe(found, "holds a control character")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise _unsafe(found, "is not valid UTF-8") from None
    if len(encoded) > _MAX_PATH_BYTES:
        raise _unsafe(found, f"makes a path of {len(encoded)} bytes; {_MAX_PATH_BYTES} is the most")
    for segment in path.split("/"):
        if segment == "":
            raise _unsafe(found, "has an empty folder or file name ('//', or a slash at an end)")
        if segment in {".", ".."}:
            raise _unsafe(found, f"has the folder {segment!r}, which would leave the dataset's directory")
        if len(segment) > MAX_NAME_BYTES // 4 and len(segment.encode()) > MAX_NAME_BYTES:
            raise _unsafe(found, f"has a name longer than {MAX_NAME_BYTES} bytes, which no disk can hold")


def _refuse_files_that_are_folders(objects: list[RemoteObject]) -> None:
    files = {each.path: each for each in objects}
    folders: set[str] = set()
    for each in objects:
        parent = each.path.rpartition("/")[0]
        while parent and parent not in folders:
            if parent in files:
                raise _unsafe(files[parent], f"is a file, and {each.key!r} makes a folder of it")
            folders.add(parent)
            parent = parent.rpartition("/")[0]


def _unsafe(found: RemoteObject, reason: str) -> UnsafeKey:
    return UnsafeKey(
        f"key {found.key!r} in {found.scheme}://{found.bucket} {reason}; rename or remove the object, or narrow the prefix",
        bucket=found.bucket,
        key=found.key,
    )
