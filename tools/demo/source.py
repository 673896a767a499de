"""Uploads the datasets to S3, and keeps the SHA-256 of each object for the comparison afterwards.

The SHA-256 is taken of the bytes on their way out, independent of S3, the engine and the checksums that they exchange.
"""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

from boto3.s3.transfer import TransferConfig

from tools.demo.plan import BUCKET, MIB, Dataset
from tools.stack.s3 import S3Server

_CHUNK = 16 * MIB


def upload(server: S3Server, dataset: Dataset, *, seed: int = 1) -> dict[str, str]:
    """Upload random bytes; return object name → SHA-256. Seeded, so that a failure can be repeated."""

    def upload_object(name: str) -> str:
        source = _Random(f"{seed}/{dataset.prefix}/{name}", dataset.sizes[name])
        server.client().upload_fileobj(
            source,  # type: ignore[arg-type]
            BUCKET,
            f"{dataset.prefix}/{name}",
            ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"},
            Config=TransferConfig(multipart_chunksize=_CHUNK, multipart_threshold=_CHUNK, max_concurrency=2),
        )
        return source.sha256()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(dataset.sizes, pool.map(upload_object, dataset.sizes), strict=True))


class _Random:
    """Random bytes as a file that is read once, front to back: a gigabyte is never in memory or on a second disk."""

    def __init__(self, seed: str, size: int) -> None:
        self._random = random.Random(seed)
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, limit: int = -1) -> bytes:
        size = self._left if limit < 0 else min(limit, self._left)
        data = self._random.randbytes(size)
        self._left -= size
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        assert self._left == 0, "read to the end first"
        return self._hash.hexdigest()
