"""The datasets of a soak: revisions come and are rolled back, and every content that a key ever had is remembered.

What is remembered is the observer's own truth about a snapshot. A revision is not uploaded at once, so a listing in
between names files of two revisions: each file must have one of the contents that its key ever had.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict

from tools.stack.buckets import Bucket

KIB = 1 << 10
_FILES = 3
_SIZES = (200 * KIB, 3000 * KIB)
_MAX_REVISIONS = 6
"""Of one dataset: later ones go back to an earlier one, so that rollbacks are as frequent as news."""


class Origin:
    def __init__(self, bucket: Bucket, chance: random.Random, datasets: int) -> None:
        self._bucket = bucket
        self._chance = chance
        self._contents: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        """Dataset → file → hashes of the contents that it ever had."""
        self._revision: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self.names = [f"set-{number}" for number in range(datasets)]
        for name in self.names:
            self._upload(name, 0)

    def uri(self, name: str) -> str:
        return self._bucket.uri(name)

    def contents(self, uri: str) -> dict[str, set[str]]:
        """File → hashes of its possible contents; empty for a dataset that was never there."""
        return self._contents.get(uri.rstrip("/").rpartition("/")[2], {})

    def publish(self) -> str:
        """Upload another revision of a dataset, a new or an earlier one. Returns what was done."""
        name = self._chance.choice(self.names)
        now, newest = self._revision[name], self._newest[name]
        if newest + 1 < _MAX_REVISIONS and (newest == 0 or self._chance.random() < 0.5):
            self._upload(name, newest + 1)
            return "published"
        earlier = self._chance.choice([number for number in range(newest + 1) if number != now])
        self._upload(name, earlier)
        return "rolled back"

    def _upload(self, name: str, revision: int) -> None:
        for number in range(_FILES):
            source = random.Random(f"{self._bucket.name}/{name}/{revision}/{number}")
            data = source.randbytes(source.randint(*_SIZES))
            # Before the upload: one that seems to fail may have been carried out.
            self._contents[name][f"shard-{number}"].add(hashlib.sha256(data).hexdigest())
            self._bucket.put(f"{name}/shard-{number}", data)
        self._revision[name] = revision
        self._newest[name] = max(self._newest.get(name, 0), revision)
