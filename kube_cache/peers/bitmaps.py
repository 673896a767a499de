"""Sets of small numbers as the bits of one `int`: a few thousand chunks are a few hundred bytes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

ALL: Final = -1
"""The set of all numbers: what a member has of an object that it published."""


def numbers(bitmap: int) -> Iterator[int]:
    """Yield the numbers of a finite set, ascending."""
    while bitmap:
        lowest = bitmap & -bitmap
        yield lowest.bit_length() - 1
        bitmap ^= lowest


def sample(bitmap: int, limit: int, random: Random) -> list[int]:
    """Return at most `limit` numbers of a finite set: those that follow a random one, around the end."""
    if not bitmap:
        return []
    turn = random.randrange(bitmap.bit_length())
    upper = bitmap >> turn
    found: list[int] = []
    while upper and len(found) < limit:
        lowest = upper & -upper
        found.append(turn + lowest.bit_length() - 1)
        upper ^= lowest
    lower = bitmap & ((1 << turn) - 1)
    while lower and len(found) < limit:
        lowest = lower & -lower
        found.append(lowest.bit_length() - 1)
        lower ^= lowest
    return found
