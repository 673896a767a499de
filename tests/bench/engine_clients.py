"""One client, one workload, one run, in a process of its own: `python -m tests.bench.engine_clients JOB`.

JOB is JSON: client, endpoint, objects {key: size}, folder (empty: throw the bytes away), connections, ca. Prints JSON:
`seconds` of the transfer, `sync_s` until it was durable as well, `cpu_s` of this process over both, `rss_mib` at its
peak. Importing and connecting clients is not timed. Each client runs as its own users run it when they know what they
do.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MIB = 1 << 20
Run = Callable[[], None]


class Job:
    def __init__(self, text: str) -> None:
        fields = json.loads(text)
        self.client: str = fields["client"]
        self.endpoint: str = fields["endpoint"]
        self.objects: dict[str, int] = fields["objects"]
        self.folder: str = fields["folder"]
        self.connections: int = fields["connections"]
        self.ca: str = fields["ca"]

    @property
    def single(self) -> bool:
        return len(self.objects) == 1

    def path(self, key: str) -> str:
        return str(Path(self.folder) / key.replace("/", "_")) if self.folder else os.devnull

    def sink(self, key: str) -> Any:
        return Path(self.path(key)).open("wb", buffering=0)


def ours(job: Job, made: Callable[[Any], None] = lambda engine: None) -> Run:
    sys.modules["awscrt"] = None  # type: ignore[assignment] # a peer here, absent in production; botocore loads it where it is

    from kube_cache.dataset.remote import RemoteObject
    from kube_cache.dataset.transfer import FetchJob
    from kube_cache.engine import part_file
    from kube_cache.engine.engine import Engine
    from kube_cache.engine.settings import EngineSettings
    from kube_cache.origin.s3 import Origins
    from kube_cache.origin.settings import OriginSettings

    if not job.folder:
        part_file.PartFile = Discard  # type: ignore[misc, assignment]
        from kube_cache.engine import object_state

        object_state.PartFile = Discard  # type: ignore[misc, assignment]
    settings = EngineSettings(connections=job.connections, max_connections=job.connections)
    engine = Engine(settings, Origins(OriginSettings()))
    folder = Path(job.folder or "/nonexistent")
    keep = Path(job.folder or "/dev/shm")
    etag = json.loads(os.environ["BENCH_ETAGS"]) if "BENCH_ETAGS" in os.environ else _etags(job)
    jobs = [
        FetchJob(
            RemoteObject("s3", "bkt", key, key, size, etag[key]),
            folder / key.replace("/", "_"),
            keep / f"{key.replace('/', '_')}.journal",
        )
        for key, size in job.objects.items()
    ]
    made(engine)
    engine.origins.of("s3")  # botocore's client, as the peers make theirs before the clock starts

    def check(done: Any) -> None:
        done.job.journal_path.unlink(missing_ok=True)
        if done.verified != "full-object":
            raise SystemExit(f"{done.job.object.key} was only {done.verified}")

    return lambda: engine.fetch(jobs, on_object=check)


class Discard:
    """Where the engine's files would be; also of the test with an object that no disk here could hold."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.inode, self.was_sized = path, size, 0, True
        self.fd = os.memfd_create("discard")  # something that can be synced, for the journal

    def write(self, view: memoryview, offset: int) -> None:
        assert 0 <= offset <= offset + len(view) <= self.size

    def preallocated_bytes(self, written: int) -> int:
        return 0

    def sync(self) -> None: ...
    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _etags(job: Job) -> dict[str, str]:
    import http.client
    import ssl

    url = urlsplit(job.endpoint)
    context = ssl.create_default_context(cafile=job.ca) if url.scheme == "https" else None
    connection = (
        http.client.HTTPSConnection(url.netloc, context=context) if context else http.client.HTTPConnection(url.netloc)
    )
    etags = {}
    for key in job.objects:
        connection.request("HEAD", f"/bkt/{key}")
        answer = connection.getresponse()
        answer.read()
        etags[key] = answer.headers["ETag"]
    connection.close()
    return etags


def awscrt(job: Job) -> Run:
    from awscrt.auth import AwsCredentialsProvider
    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.io import ClientBootstrap, ClientTlsContext, DefaultHostResolver, EventLoopGroup, TlsContextOptions
    from awscrt.s3 import (
        S3Client,
        S3FileIoOptions,
        S3RequestTlsMode,
        S3RequestType,
        create_default_s3_signing_config,
    )

    url = urlsplit(job.endpoint)
    tls = url.scheme == "https"
    group = EventLoopGroup()
    bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
    provider = AwsCredentialsProvider.new_static("A" * 20, "x" * 40)
    options = None
    if tls:
        context = TlsContextOptions()
        context.override_default_trust_store_from_path(None, job.ca)
        options = ClientTlsContext(context).new_connection_options()
    client = S3Client(
        bootstrap=bootstrap,
        region="us-east-1",
        signing_config=create_default_s3_signing_config(region="us-east-1", credential_provider=provider),
        tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
        tls_connection_options=options,
        part_size=8 * MIB,
        throughput_target_gbps=20.0,
        max_active_connections_override=job.connections if job.connections > 16 else None,
    )
    slots = threading.Semaphore(32)

    def run() -> None:
        futures = []
        for key in job.objects:
            slots.acquire()
            request = HttpRequest("GET", f"/bkt/{key}", HttpHeaders([("Host", url.netloc)]))
            how: dict[str, Any] = {"on_body": lambda chunk, offset, **_: None}
            if job.folder:
                direct = S3FileIoOptions(should_stream=False, disk_throughput_gbps=0.0, direct_io=True)
                how = {"recv_filepath": job.path(key), "fio_options": direct}
            request_handle = client.make_request(
                type=S3RequestType.GET_OBJECT, request=request, on_done=lambda **_: slots.release(), **how
            )
            futures.append(request_handle.finished_future)
        for future in futures:
            future.result()

    return run


def obstore(job: Job) -> Run:
    import obstore as ob
    from obstore.store import S3Store

    store = S3Store(
        "bkt",
        endpoint=job.endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        access_key_id="A" * 20,
        secret_access_key="x" * 40,
        client_options={"allow_http": True, "allow_invalid_certificates": True, "timeout": "300s"},
    )
    part = 16 * MIB

    def fetch_range(piece: tuple[Any, str, int, int]) -> None:
        handle, key, start, end = piece
        view = memoryview(ob.get_range(store, key, start=start, end=end))
        done = 0
        while job.folder and done < len(view):
            done += os.pwrite(handle.fileno(), view[done:], start + done)

    def run() -> None:
        handles = {key: job.sink(key) for key in job.objects}
        ranges = [
            (handles[key], key, start, min(size, start + part))
            for key, size in job.objects.items()
            for start in range(0, size, part)
        ]
        with ThreadPoolExecutor(max(8, job.connections)) as pool:
            list(pool.map(fetch_range, ranges))
        for handle in handles.values():
            handle.close()

    return run


class Null(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, *_: Any) -> int:
        return 0

    def write(self, data: Any) -> int:
        return len(data)


def boto3(job: Job) -> Run:
    import boto3 as b
    from botocore.config import Config
    from s3transfer.manager import TransferConfig, TransferManager

    client = b.client(
        "s3",
        endpoint_url=job.endpoint,
        verify=job.ca if job.endpoint.startswith("https") else None,
        config=Config(max_pool_connections=64, s3={"addressing_style": "path"}),
    )
    part = 16 * MIB
    config = TransferConfig(
        max_request_concurrency=max(8, job.connections), multipart_chunksize=part, multipart_threshold=part
    )

    def run() -> None:
        with TransferManager(client, config) as manager:
            futures = [manager.download("bkt", key, job.path(key) if job.folder else Null()) for key in job.objects]
            for future in futures:
                future.result()

    return run


def peak_rss_mib(pid: int | str) -> float:
    """VmHWM; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


CLIENTS = {"ours": ours, "awscrt": awscrt, "obstore": obstore, "boto3": boto3}


def main() -> int:
    job = Job(sys.argv[1])
    run = CLIENTS[job.client](job)
    before, started = os.times(), time.perf_counter()
    run()
    fetched = time.perf_counter()
    if job.folder:
        fd = os.open(job.folder, os.O_RDONLY)
        ctypes.CDLL(None).syncfs(fd)
        os.close(fd)
    ended, after = time.perf_counter(), os.times()
    result = {
        "seconds": fetched - started,
        "sync_s": ended - fetched,
        "cpu_s": after.user + after.system - before.user - before.system,
        "rss_mib": peak_rss_mib("self"),
    }
    print(json.dumps(result), flush=True)
    os._exit(0)  # some clients' threads crash at the interpreter's end


if __name__ == "__main__":
    sys.exit(main())
