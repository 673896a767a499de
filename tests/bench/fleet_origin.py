"""The bench's origin: nginx on a node of its own, which answers as S3 does, and counts the bytes that it sent.

Not one of the real S3 servers: nginx writes each answer's bytes to its log, cut-off ones too, and by `sendfile` takes
least of the cores that it shares with the agents. It checks no signature.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from awscrt import checksums

MIB = 1 << 20
BUCKET = "bkt"
PORT = 80
_START_S = 60


class Objects:
    """Random objects in a folder, as the origin serves and the agents' files are compared with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / BUCKET
        self._folder.mkdir(parents=True)
        self.size: dict[str, int] = {}
        self.crc64: dict[str, int] = {}
        """CRC64NVME of each."""

    @property
    def root(self) -> Path:
        return self._folder.parent

    def path(self, key: str) -> Path:
        return self._folder / key

    def add(self, key: str, size: int) -> None:
        self.path(key).parent.mkdir(exist_ok=True)
        crc = 0
        with self.path(key).open("wb") as file:
            for start in range(0, size, MIB):
                piece = os.urandom(min(MIB, size - start))
                file.write(piece)
                crc = checksums.crc64nvme(piece, crc)
        self.size[key], self.crc64[key] = size, crc

    def etag(self, key: str) -> str:
        """Return nginx's ETag: time of the last change and size."""
        told = self.path(key).stat()
        return f'"{int(told.st_mtime):x}-{told.st_size:x}"'

    def differ(self, key: str, copy: Path) -> bool:
        """Compare every byte."""
        if not copy.exists() or copy.stat().st_size != self.size[key]:
            return True
        with self.path(key).open("rb") as ours, copy.open("rb") as theirs:
            while piece := ours.read(4 * MIB):
                if piece != theirs.read(4 * MIB):
                    return True
        return False


class Origin:
    """One run of nginx."""

    @staticmethod
    def missing() -> str | None:
        return None if _nginx() else "nginx is missing (Debian: apt-get install nginx-light)"

    def __init__(self, folder: Path, objects: Objects, inside: Sequence[str]) -> None:
        """folder: for its files. inside: the words that bring a command onto the origin's node."""
        binary = _nginx()
        assert binary is not None
        folder.mkdir(exist_ok=True)
        self._log = folder / "access.log"
        self._log.unlink(missing_ok=True)
        self._errors = folder / "error.log"
        config = folder / "nginx.conf"
        config.write_text(_config(folder, objects, folder / "socket"))
        self._process = subprocess.Popen(
            [*inside, binary, "-e", str(self._errors), "-c", str(config), "-p", str(folder)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_ready(folder / "socket")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        """End it; return the bytes of the bodies that it sent."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        return self.sent

    @property
    def sent(self) -> int:
        """Bytes of the bodies of all answers that have ended."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return sum(int(line) for line in lines if line.endswith("\n"))

    def _wait_ready(self, door: Path) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(door))
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"nginx does not start: {self._errors.read_text()[-500:] if self._errors.exists() else ''}")


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _config(folder: Path, objects: Objects, door: Path) -> str:
    sums = "\n".join(
        f'    /{BUCKET}/{key} "{base64.b64encode(crc.to_bytes(8, "big")).decode()}";'
        for key, crc in objects.crc64.items()
    )
    door.unlink(missing_ok=True)
    return f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  log_format sent $body_bytes_sent; access_log {folder}/access.log sent;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 60;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  map $uri $sum {{
{sums}
  }}
  map $http_range $whole {{ "" $sum; default ""; }}
  server_tokens off; default_type application/octet-stream;
  server {{
    listen {PORT} backlog=4096; listen unix:{door}; root {objects.root};
    add_header x-amz-checksum-crc64nvme $whole; add_header x-amz-checksum-type FULL_OBJECT;
  }}
}}
"""
