"""nginx before an S3 server, once for each way in which a proxy changes what the engine is told: a port for each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

MISSING: Final = "nginx is missing, and this test needs it (Debian: apt-get install nginx-light)"
_START_S: Final = 20
_WEAK_ETAG: Final = "proxy_hide_header ETag; add_header ETag W/$upstream_http_etag;"
VARIANTS: Final = {
    "plain": "",
    "weak ETag": _WEAK_ETAG,
    "unquoted ETag": "proxy_hide_header ETag; add_header ETag $unquoted_etag;",
    "no ETag": "proxy_hide_header ETag;",
    "neither ETag nor Last-Modified": "proxy_hide_header ETag; proxy_hide_header Last-Modified;",
    # Rewriting bodies makes nginx send them, and the HEADs, in chunks, with a weak ETag and no Last-Modified.
    "rewritten in chunks": "sub_filter_types *; sub_filter no-object-has-these-bytes x; proxy_http_version 1.1;",
    "gzip": "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;",
    "buffered to a file": "proxy_buffering on; proxy_buffers 4 8k; proxy_max_temp_file_size 64m;",
    "cache that drops Range and If-Match": "proxy_cache copies; proxy_cache_valid 200 1m;",
    "slices": "slice 1m; proxy_set_header Range $slice_range; proxy_http_version 1.1;",
}
"""Directives by name."""


class Nginx:
    def __init__(self, folder: Path, upstream: str, tls: Path | None = None) -> None:
        """Start. folder: for its files. upstream: URL of the S3 server. tls: folder of cert.pem and key.pem."""
        binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if binary is None:
            raise FileNotFoundError(MISSING)
        held = [socket.create_server(("127.0.0.1", 0)) for _ in VARIANTS]
        self._ports = {name: int(sock.getsockname()[1]) for name, sock in zip(VARIANTS, held, strict=True)}
        for sock in held:
            sock.close()
        self._errors = folder / "error.log"
        config = folder / "nginx.conf"
        config.write_text(self._config(folder, upstream, tls))
        self._scheme = "https" if tls else "http"
        self._process = subprocess.Popen(
            [binary, "-e", str(self._errors), "-c", str(config), "-p", str(folder)], stdin=subprocess.DEVNULL
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def endpoint(self, variant: str) -> str:
        return f"{self._scheme}://localhost:{self._ports[variant]}"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                for port in self._ports.values():
                    socket.create_connection(("127.0.0.1", port), 1).close()
                return
            time.sleep(0.02)
        raise RuntimeError(f"nginx does not start: {self._errors.read_text()[-500:]}")

    def _config(self, folder: Path, upstream: str, tls: Path | None) -> str:
        keys = f"ssl_certificate {tls}/cert.pem; ssl_certificate_key {tls}/key.pem;" if tls else ""
        servers = "\n".join(
            f"  server {{ listen 127.0.0.1:{self._ports[name]}{' ssl' if tls else ''}; {keys}\n"
            f"    location / {{ proxy_pass {upstream}; proxy_set_header Host $http_host; {directives} }} }}"
            for name, directives in VARIANTS.items()
        )
        user = "user root;" if os.geteuid() == 0 else ""  # the folder is closed to the user that nginx would become
        return f"""
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  proxy_cache_path {folder}/cache keys_zone=copies:1m;
  map $upstream_http_etag $unquoted_etag {{ "~^.(?<opaque>.+).$" $opaque; default ""; }}
{servers}
}}
"""
