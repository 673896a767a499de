"""How objects are cut into chunks where a swarm fetches them: a function of the size alone, so that all cut alike."""

from __future__ import annotations

from typing import Final

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
MAX_LONE_BYTES: Final = 8 * _MIB
"""An object of at most this size is one request to the origin, and no swarm's business."""
_ENGINE_STEPS: Final = ((64 * _GIB, 16 * _MIB),)
_ENGINE_LARGEST: Final = 64 * _MIB


def chunk_bytes(size: int) -> int | None:
    """Return the size of the chunks of an object of `size` bytes; None: as the engine cuts it.

    Small chunks, because nobody can send one on before it is whole. Few of them, because each is a request. Simulated
    with 32 nodes and 128 MiB, chunks of 2 MiB take 1.53 x S/b, and those of 1 MiB 1.38.
    """
    if size < _GIB // 4:
        return _MIB
    if size < _GIB:
        return 2 * _MIB
    return 4 * _MIB if size < 8 * _GIB else None


def chunk_count(size: int) -> int:
    """Return the number of chunks of an object that was not uploaded in parts; those of others differ by some.

    Homes are counted by this number, which all members compute alike without a look at the object.
    """
    step = chunk_bytes(size)
    if step is None:
        step = next((step for limit, step in _ENGINE_STEPS if size <= limit), _ENGINE_LARGEST)
    return max(1, -(-size // step))
