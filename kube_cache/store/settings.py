"""The settings of the node's store: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default, unit and meaning stand beside each field; its name in the environment is KUBE_CACHE_STORE__<FIELD>. Does not
read the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt, Le, Lt

MIB = 1 << 20
_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Settings of the node's store, `KUBE_CACHE_STORE__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    root: Path = Path("/var/lib/kube-cache")
    """Cache root: one filesystem, best an NVMe of its own; ext4, XFS or btrfs."""
    allow_root_disk: bool = False
    """Allow a cache root on the disk that the node itself lives on, or in memory."""
    min_free: Annotated[float, Ge(0), Lt(1)] = 0.20
    """Share of the filesystem kept free (the kubelet evicts Pods at 0.10-0.15)."""
    min_free_inodes: Annotated[float, Ge(0), Lt(1)] = 0.10
    """Share of the filesystem's inodes kept free (the kubelet evicts Pods at 0.05)."""
    capacity_bytes: Annotated[int, Ge(0)] = 0
    """Maximum size of the cache in bytes; 0 = no limit of its own."""
    capacity_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Maximum size of the cache as a share of the filesystem."""
    prefetch_watermark: Annotated[float, Ge(0), Le(1)] = 0.85
    """Share of the cache up to which prefetches fill it; the rest is left to the data of Pods that wait."""
    keep_partial_s: Annotated[float, Ge(0)] = 86400
    """Seconds that the verified parts of an abandoned download are kept, so that it can be resumed."""
    quarantine_s: Annotated[float, Ge(0)] = 7 * 86400
    """Seconds that an object with wrong bytes is kept for inspection."""
    scrub_bytes_per_s: Annotated[int, Ge(0)] = 50 * MIB
    """Rate at which the background scrub reads objects against their checksums, bytes per second; 0 = never."""
    scrub_every_s: Annotated[float, Gt(0)] = 7 * 86400
    """Seconds from the end of one background scrub to the beginning of the next; an interrupted scrub continues."""
