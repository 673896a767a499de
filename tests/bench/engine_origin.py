"""The bench's object store: nginx with sendfile from memory, the fastest thing that speaks ranged GETs on one machine.

Four ports over the same files. `plain` and `tls` answer as S3 does, with a checksum on a whole GET and on HEAD; `peers`
and `peers_tls` without one and with an ETag of 32 digits, because nginx's own (hex-hex) makes the CRT's parser stand
still; `capped` sends each connection at most 20 MiB/s, as S3 does more or less.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from awscrt import checksums

MIB = 1 << 20
CAP = 20 * MIB
_HEADERS_MORE = Path("/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")
"""Drops the peers' If-Match, which nginx would compare with its own kind of ETag."""
PORTS = ("plain", "tls", "peers", "peers_tls", "capped", "peers_capped")


class Origin:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data" / "bkt"
        self.data.mkdir(parents=True)
        folder.chmod(0o755)  # nginx drops root
        self.crc: dict[str, int] = {}
        self.ca = folder / "ca.pem"
        self.port: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """One line that says what to install."""
        if shutil.which("nginx", path=_path()) and _HEADERS_MORE.exists():
            return None
        return "nginx is missing (Debian: apt-get install nginx-light libnginx-mod-http-headers-more-filter)"

    def add(self, key: str, size: int) -> None:
        """An object of `size` pseudo-random bytes that differ from key to key and from MiB to MiB."""
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        block = bytearray(os.urandom(MIB))
        crc = 0
        with path.open("wb") as handle:
            for number in range(0, size, MIB):
                block[:8] = number.to_bytes(8, "big")
                piece = memoryview(block)[: min(MIB, size - number)]
                handle.write(piece)
                crc = checksums.crc64nvme(piece, crc)
        self.crc[key] = crc

    def start(self) -> None:
        make_certificate(self.folder)
        self.port = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        config = self.folder / "nginx.conf"
        config.write_text(self._config())
        binary = shutil.which("nginx", path=_path())
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "-e", str(self.folder / "error.log"), "-c", str(config), "-p", str(self.folder)],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port["plain"]), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"nginx does not start: {(self.folder / 'error.log').read_text()[-500:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu_s(self) -> float:
        """CPU seconds of nginx's processes so far."""
        assert self._process is not None
        ticks = 0
        for task in [self._process.pid, *_children(self._process.pid)]:
            fields = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _config(self) -> str:
        sums = "\n".join(f'    /bkt/{key} "{_base64(crc)}";' for key, crc in self.crc.items())
        servers = "\n".join(
            self._server(name, tls=name.endswith("tls"), peers=name.startswith("peers"), capped=name.endswith("capped"))
            for name in PORTS
        )
        return f"""
load_module {_HEADERS_MORE};
daemon off; worker_processes 2; pid {self.folder}/nginx.pid; worker_rlimit_nofile 8192;
events {{ worker_connections 2048; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 60;
  client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2; fastcgi_temp_path {self.folder}/t3;
  uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;
  open_file_cache max=4096 inactive=600s; open_file_cache_valid 600s;
  map_hash_bucket_size 256; map_hash_max_size 8192;
  map $uri $sum {{
{sums}
  }}
  map $http_range $whole {{ "" $sum; default ""; }}
  server_tokens off; default_type application/octet-stream;
{servers}
}}
"""

    def _server(self, name: str, *, tls: bool, peers: bool, capped: bool) -> str:
        listen = f"listen 127.0.0.1:{self.port[name]}{' ssl' if tls else ''} reuseport;"
        keys = (
            f"ssl_certificate {self.folder}/cert.pem; ssl_certificate_key {self.folder}/key.pem; ssl_protocols TLSv1.3;"
            if tls
            else ""
        )
        headers = (
            """more_clear_input_headers If-Match; etag off; add_header ETag '"0123456789abcdef0123456789abcdef"';"""
            if peers
            else "add_header x-amz-checksum-crc64nvme $whole; add_header x-amz-checksum-type FULL_OBJECT;"
        )
        cap = f"limit_rate {CAP};" if capped else ""
        return f"  server {{ {listen} {keys} root {self.folder}/data; {headers} {cap} }}"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for sock in held:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def make_certificate(folder: Path, name: str = "localhost") -> None:
    """A throw-away authority and a certificate for the host `name`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])

    def build(name: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    ca = build(ca_name, ca_key.public_key(), ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    cert = build(subject, key.public_key(), ca=False).add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
