"""What can be set about the transfer engine: a plain dataclass, whose bounds `kube_cache.settings` checks.

Not a pydantic model, so that the engine by itself needs no pydantic: 17 MiB in a process that is to fit in 64. Default, unit and
meaning stand beside each field; the environment's names are KUBE_CACHE_ENGINE__<FIELD>. Nothing here reads the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt, Le

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of the transfer engine, `KUBE_CACHE_ENGINE__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    connections: Annotated[int, Ge(1), Le(256)] = 8
    """Connections to start with, for the whole node."""
    max_connections: Annotated[int, Ge(1), Le(1024)] = 256
    """The most that it may grow to while that helps."""
    stall_timeout_s: Annotated[float, Gt(0)] = 5
    """Seconds without a byte after which a connection is given up."""
    give_up_s: Annotated[float, Gt(0)] = 30
    """Seconds without any byte after which a fetch fails, to be tried anew."""
    max_bytes_per_s: Annotated[int, Ge(0)] = 0
    """Bandwidth cap for the whole node; 0 = none."""
    verify_hashes: bool = False
    """Read objects again whose only checksum is SHA-1, SHA-256 or an MD5 in the ETag."""
