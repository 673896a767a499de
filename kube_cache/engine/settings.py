"""Settings of the transfer engine: a plain dataclass, whose bounds `kube_cache.settings` checks.

Not a pydantic model, because the engine is to fit in 64 MiB and pydantic alone takes 17. Default, unit and meaning
stand beside each field; the environment's names are KUBE_CACHE_ENGINE__<FIELD>, but are not read here.
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
    """Connections to start with, for the whole node; 16 when 64 objects or more have at most 8 MiB."""
    max_connections: Annotated[int, Ge(1), Le(1024)] = 256
    """Maximum number of connections, for the whole node; reached only while more of them bring more bytes."""
    stall_timeout_s: Annotated[float, Gt(0)] = 5
    """Seconds without a byte after which a connection is closed and its range requested again."""
    give_up_s: Annotated[float, Gt(0)] = 30
    """Seconds without a byte on any connection after which a fetch fails; it is tried again later, and resumes."""
    max_bytes_per_s: Annotated[int, Ge(0)] = 0
    """Bandwidth limit for the whole node, in bytes per second; 0 = none."""
    verify_hashes: bool = False
    """Read a file again if its object's only checksum is SHA-1, SHA-256 or an MD5 in the ETag."""
