"""A transfer engine over a dict, and datasets to fetch with it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from awscrt import checksums

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress, Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, DiskFault
from kube_cache.store import capacity, eviction
from kube_cache.store.node_store import NodeStore
from kube_cache.store.settings import StoreSettings


class Source:
    """What the bucket holds. A version is the ETag; content follows from key and version."""

    def __init__(self, bucket: str = "models") -> None:
        self.bucket = bucket
        self.contents: dict[tuple[str, str], bytes] = {}

    def put(self, key: str, content: bytes) -> RemoteObject:
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        self.contents[key, etag] = content
        return RemoteObject("s3", self.bucket, key, key, len(content), etag)

    def dataset(self, prefix: str, files: Mapping[str, bytes]) -> Manifest:
        folder = f"{prefix}/" if prefix else ""
        objects = tuple(self._under(folder, path, content) for path, content in sorted(files.items()))
        return manifest(DatasetUri("s3", self.bucket, prefix), objects)

    def _under(self, folder: str, path: str, content: bytes) -> RemoteObject:
        obj = self.put(folder + path, content)
        return RemoteObject("s3", self.bucket, obj.key, path, obj.size, obj.etag)

    def bytes_of(self, obj: RemoteObject) -> bytes:
        return self.contents[obj.key, obj.etag]


def manifest(uri: DatasetUri, objects: tuple[RemoteObject, ...]) -> Manifest:
    text = "\n".join(f"{obj.path} {obj.key} {obj.size} {obj.etag}" for obj in objects)
    digest = hashlib.sha256(f"{uri}\n{text}".encode()).hexdigest()
    return Manifest(uri, digest, objects, sum(obj.size for obj in objects))


class DictEngine:
    """Implements `TransferEngine`: writes each part whole, syncs it, and hands it over."""

    def __init__(self, source: Source, *, durable: Callable[[Path], None] = lambda _: None, sync: bool = True) -> None:
        self._source = source
        self._durable = durable
        self._sync = sync
        self._lock = threading.Lock()
        self.served: Counter[str] = Counter()
        """Bytes per key, over the network."""
        self.writing: set[Path] = set()
        self.hold: threading.Event | None = None
        """When given, each fetch waits for it after its first object."""
        self.reached = threading.Event()
        self.journals = False

    def fetch(
        self,
        jobs: Iterable[FetchJob],
        *,
        on_object: Callable[[FetchedObject], None],
        progress: Callable[[FetchProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
        max_bytes_per_s: int = 0,
    ) -> None:
        jobs = list(jobs)
        total = sum(job.object.size for job in jobs)
        done = 0
        for job in jobs:
            if cancelled():
                raise Cancelled("cancelled")
            fetched = self._fetch_object(job)
            on_object(fetched)
            done += job.object.size
            if progress:
                progress(FetchProgress(done, total, 1.0))
            if self.hold is not None:
                self.reached.set()
                while not self.hold.wait(0.01):
                    if cancelled():
                        raise Cancelled("cancelled")

    def _fetch_object(self, job: FetchJob) -> FetchedObject:
        content = self._source.bytes_of(job.object)
        crc = checksums.crc64nvme(content)
        resumed = job.journal_path.exists() and job.part_path.exists() and job.part_path.read_bytes() == content
        with self._lock:
            assert job.part_path not in self.writing, "two attempts write one file"
            self.writing.add(job.part_path)
        try:
            if not resumed:
                try:
                    with job.part_path.open("wb") as file:
                        file.write(content)
                        file.flush()
                        if self._sync:
                            os.fsync(file.fileno())
                    if self.journals:
                        job.journal_path.write_bytes(b"journal")
                except OSError as error:
                    raise DiskFault(f"{job.part_path}: {error}") from error
            self._durable(job.part_path)
            with self._lock:
                self.served[job.object.key] += 0 if resumed else len(content)
        finally:
            with self._lock:
                self.writing.discard(job.part_path)
        size = len(content)
        return FetchedObject(job, crc, Verified.FULL_OBJECT, 0 if resumed else size, size if resumed else 0)

    @property
    def total(self) -> int:
        return sum(self.served.values())

    def close(self) -> None:
        pass


def settings(root: Path, **changes: object) -> StoreSettings:
    fields = {"root": root, "allow_root_disk": True, "min_free": 0.0, "min_free_inodes": 0.0} | changes
    return StoreSettings(**fields)


def open_store(root: Path, **changes: object) -> NodeStore:
    return NodeStore.open(settings(root, **changes))


def read_all(store: NodeStore, dataset: Manifest) -> dict[str, bytes]:
    base = store.root / "snapshots" / dataset.digest / "data"
    return {obj.path: (base / obj.path).read_bytes() for obj in dataset.objects}


def snapshot_names(root: Path) -> list[str]:
    """Names in `snapshots/`, without the link by way of which Pods mount."""
    return sorted(path.name for path in (root / "snapshots").iterdir() if path.name != "pods")


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def free_space(store: NodeStore, needed: int) -> int:
    """Evict until `needed` bytes can be used, as a download does. Returns the bytes that became free."""
    with store._opened.context.exclusive():
        return eviction.free_space(store._opened.context, needed)


def reserved_bytes(store: NodeStore) -> int:
    return capacity.measure(store._opened.context).reserved_bytes
