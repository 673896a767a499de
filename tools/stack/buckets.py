"""A bucket with datasets in it, created for one test or one demo."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tools.stack.s3 import S3Server


class Bucket:
    def __init__(self, server: S3Server, name: str, *, readable: bool = True, versioned: bool = False) -> None:
        self.server = server
        self.name = name
        server.create_bucket(name, readable=readable)
        if versioned:
            server.enable_versioning(name)

    def uri(self, prefix: str = "") -> str:
        return f"s3://{self.name}/{prefix}"

    def put(self, key: str, data: bytes, *, checksum: str = "CRC64NVME") -> None:
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data, ChecksumAlgorithm=checksum)  # type: ignore[arg-type]

    def fill(self, prefix: str, sizes: Mapping[str, int] | list[int], *, seed: int = 1) -> dict[str, bytes]:
        """Upload random objects under a prefix, named or numbered; return name → bytes to compare with later.

        Random, so that no two objects are equal; seeded, so that a failure can be repeated.
        """
        size_by_name = sizes if isinstance(sizes, Mapping) else {f"shard-{k:05}": size for k, size in enumerate(sizes)}
        source = random.Random(f"{seed}/{prefix}")
        content = {name: source.randbytes(size) for name, size in size_by_name.items()}
        for name, data in content.items():
            self.put(f"{prefix.rstrip('/')}/{name}", data)
        return content

    def remove(self, key: str) -> None:
        self.server.client().delete_object(Bucket=self.name, Key=key)

    def delete(self) -> None:
        self.server.delete_bucket(self.name)
