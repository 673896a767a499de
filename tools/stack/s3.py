"""An S3 server on loopback: versitygw over a folder.

The server has two users. The owner creates buckets and uploads. The reader is the product's user and sees a bucket only
by grant (`create_bucket(readable=True)` writes the bucket policy), so that "access denied" is the server's own answer.
"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.stack import environment, ports, probe
from tools.stack.processes import Process, Processes, StackError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_READY_S = 60


@dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str


OWNER = Credentials("kube-cache-owner", "kube-cache-owner-secret")
READER = Credentials("kube-cache-reader", "kube-cache-reader-secret")

_BUCKET_ACTIONS = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation", "s3:GetBucketVersioning"]
_OBJECT_ACTIONS = ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectAttributes"]


class S3Server:
    """The server and its buckets; the data survives a stop."""

    def __init__(self, processes: Processes, binary: Path, state: Path) -> None:
        self._processes = processes
        self._binary = binary
        self._state = state
        self._data = state / "s3"
        self._users = state / "s3-users"
        self._versions = state / "s3-versions"
        for folder in (self._data, self._users, self._versions):
            folder.mkdir(parents=True, exist_ok=True)
        self._client: S3Client | None = None
        self._port, self.process = ports.binding(1, lambda chosen: (chosen[0], self._spawn(chosen[0])))
        self._create_reader()

    @property
    def endpoint(self) -> str:
        return f"http://{ports.LOOPBACK}:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    def client(self) -> S3Client:
        """Return the owner's boto3 client."""
        if self._client is None:
            self._client = client(self.endpoint, OWNER)
        return self._client

    def create_bucket(self, bucket: str, *, readable: bool = True) -> None:
        self.client().create_bucket(Bucket=bucket)
        if readable:
            self.grant(bucket)

    def grant(self, bucket: str) -> None:
        """Let the reader read the bucket."""
        self.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(_policy(bucket)))

    def revoke(self, bucket: str) -> None:
        self.client().delete_bucket_policy(Bucket=bucket)

    def enable_versioning(self, bucket: str) -> None:
        self.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def delete_bucket(self, bucket: str) -> None:
        """Delete a bucket and everything in it."""
        s3 = self.client()
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                s3.delete_object(Bucket=bucket, Key=entry["Key"])
        s3.delete_bucket(Bucket=bucket)

    def damage(self, bucket: str, key: str, offset: int = 0) -> None:
        """Invert one byte on the server's disk: the server goes on serving the old checksum and ETag."""
        with (self._data / bucket / key).open("r+b") as handle:
            handle.seek(offset)
            byte = handle.read(1)
            handle.seek(offset)
            handle.write(bytes([byte[0] ^ 0xFF]))

    def stop(self) -> None:
        """Send SIGKILL: open connections break, new ones are refused."""
        self.process.kill()

    def start(self) -> None:
        """Start again on the same port, over the same data."""
        self.process = self.process.respawn()
        self._wait_ready(self.process, self._port)

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open and nothing comes, the harder kind of failure."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def repair(self) -> None:
        """Start the server if it is stopped, and resume it if it is paused."""
        if self.process.running:
            self.resume()
        else:
            self.start()

    def _spawn(self, port: int) -> Process:
        process = self._processes.spawn(
            "s3",
            [
                self._binary,
                f"--port={ports.LOOPBACK}:{port}",
                f"--region={REGION}",
                f"--iam-dir={self._users}",
                "--health=/health",
                "--keep-alive",  # off by default; S3 itself keeps connections
                "--quiet",
                "posix",
                f"--versioning-dir={self._versions}",
                str(self._data),
            ],
            environment.clean(self._state, ROOT_ACCESS_KEY=OWNER.access_key, ROOT_SECRET_KEY=OWNER.secret_key),
        )
        self._wait_ready(process, port)
        return process

    def _wait_ready(self, process: Process, port: int) -> None:
        process.wait_until(lambda: probe.answers(f"http://{ports.LOOPBACK}:{port}/health"), "health answer", _READY_S)

    def _create_reader(self) -> None:
        result = subprocess.run(
            [
                *(str(self._binary), "admin", "--endpoint-url", self.endpoint, "create-user"),
                *("--access", READER.access_key, "--secret", READER.secret_key, "--role", "user"),
            ],
            env=environment.clean(
                self._state,
                ADMIN_ACCESS_KEY_ID=OWNER.access_key,
                ADMIN_SECRET_ACCESS_KEY=OWNER.secret_key,
                ADMIN_REGION=REGION,
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if result.returncode != 0:
            raise StackError(f"the S3 server refuses to create the reader: {(result.stderr or result.stdout).strip()}")


def client(endpoint: str, user: Credentials) -> S3Client:
    """Create a boto3 client; path style, because a bucket has no host name on loopback."""
    import boto3
    from botocore.config import Config

    # One attempt, so that a test sees the first error.
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, max_pool_connections=32)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        region_name=REGION,
        config=config,
    )


def _policy(bucket: str) -> dict[str, object]:
    arn = f"arn:aws:s3:::{bucket}"
    reader = {"AWS": [READER.access_key]}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": reader, "Action": _BUCKET_ACTIONS, "Resource": arn},
            {"Effect": "Allow", "Principal": reader, "Action": _OBJECT_ACTIONS, "Resource": f"{arn}/*"},
        ],
    }
