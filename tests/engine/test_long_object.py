"""An object larger than any memory: constant memory, a small journal, progress that only rises, and never silent.

2 GiB in `make test`; KUBE_CACHE_TEST_OBJECT_GIB=60 (`make test-large`) for the long form. Served from a sparse file and
thrown away, so that neither side needs the disk.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchJob, FetchProgress
from kube_cache.engine import object_state
from kube_cache.engine.buffers import SLOT_BYTES
from tests.bench.engine_clients import Discard
from tests.engine.fetcher import Fetcher
from tests.engine.objects import MIB

pytestmark = pytest.mark.slow

SIZE = int(float(os.environ.get("KUBE_CACHE_TEST_OBJECT_GIB", "2")) * (1 << 30))


class SparseServer:
    """Ranged GETs of fetcher sparse file by sendfile, a thread a connection."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._file.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, ValueError):
            while data := sock.recv(65536):
                start, end = 0, SIZE - 1
                status, extra = "200 OK", ""
                if match := re.search(rb"(?i)range: bytes=(\d+)-(\d+)", data):
                    start, end = int(match[1]), int(match[2])
                    status, extra = "206 Partial Content", f"Content-Range: bytes {start}-{end}/{SIZE}\r\n"
                head = f'HTTP/1.1 {status}\r\nContent-Length: {end - start + 1}\r\nETag: "e"\r\n{extra}\r\n'
                sock.sendall(head.encode())
                while not data.startswith(b"HEAD") and start <= end:
                    start += os.sendfile(sock.fileno(), self._file.fileno(), start, min(4 * MIB, end - start + 1))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SparseServer]:
    path = tmp_path / "sparse"
    with path.open("wb") as handle:
        handle.truncate(SIZE)
    server = SparseServer(path)
    yield server
    server.close()


@pytest.mark.timeout(1200)
def test_memory_journal_and_progress(
    server: SparseServer, make_fetcher: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(object_state, "PartFile", Discard)
    fetcher = make_fetcher(f"http://127.0.0.1:{server.port}", connections=8, max_connections=8)
    fetcher.origins.of("s3")
    reports: list[tuple[float, FetchProgress]] = []
    resident: list[int] = []
    job = FetchJob(RemoteObject("s3", "bucket", "key", "key", SIZE, '"e"'), tmp_path / "part", tmp_path / "journal")
    begun = _resident()

    def report(progress: FetchProgress) -> None:
        reports.append((time.monotonic(), progress))
        resident.append(_resident())

    fetcher.engine.fetch([job], on_object=lambda done: fetcher.done.__setitem__("key", done), progress=report)
    assert fetcher.done["key"].fetched_bytes == SIZE
    done = [progress.done_bytes for _, progress in reports]
    assert done == sorted(done)
    assert done[-1] == SIZE
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(reports)]
    assert max(gaps) < 2
    assert max(resident) - begun < 8 * SLOT_BYTES + 16 * MIB
    assert (tmp_path / "journal").stat().st_size <= 1024 + 24 * (SIZE // (16 * MIB))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
