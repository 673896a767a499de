"""Which buckets, and which folders of them, may be read: the one setting that limits what a Pod can name.

Without it, a Pod may name whatever the credentials of agent and operator can read. The operator asks before it lists a
dataset, and each agent asks again before it lists: an agent does not trust the workflow that calls it.
"""

from __future__ import annotations

import json
import re

from kube_cache.dataset.uri import SCHEMES
from kube_cache.errors import BucketNotAllowed

SETTING = "KUBE_CACHE_ORIGIN__ALLOWED_BUCKETS"
_PATTERN = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/\s]+(?:/\S*)?")


class AllowedBuckets:
    """patterns: as the setting has them; none: everything is allowed."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self._allowed = re.compile("|".join(map(_as_regex, patterns))) if patterns else None

    def check(self, scheme: str, bucket: str, prefix: str) -> None:
        """Raises BucketNotAllowed unless a pattern covers the object and the folder that the prefix may mean."""
        if self._allowed is None or self._allowed.match(f"{scheme}://{bucket}/{prefix.rstrip('/')}/"):
            return
        raise BucketNotAllowed(
            f"{scheme}://{bucket}/{prefix}: this cluster does not allow the bucket {bucket!r}, or this folder of it;"
            f" allowed are {', '.join(self.patterns)}. Name one of these, or ask whoever runs Kube-Cache to add it to"
            f" {SETTING} of the operator and the agents",
            bucket=bucket,
        )


def parse_patterns(text: str) -> tuple[str, ...]:
    """Parse the setting: patterns between commas, or a JSON list of them. Raises ValueError that names a bad one."""
    if text.lstrip().startswith("["):
        items = json.loads(text)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"{SETTING}: a JSON list of strings is expected")
    else:
        items = text.split(",")
    patterns = tuple(item.strip() for item in items if item.strip())
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{SETTING}: {pattern!r} is no pattern; write it like s3://models or s3://team-*/data/")
    return patterns


def _as_regex(pattern: str) -> str:
    """`*` stands for any characters within a bucket's or a folder's name; a pattern covers all that is under it."""
    return "[^/]*".join(re.escape(piece) for piece in pattern.rstrip("/").split("*")) + "/"
