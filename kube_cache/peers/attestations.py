"""What chunks must be: the CRC64NVME that the member attests which brought a chunk from the origin.

A holder in between cannot change a chunk unseen, because the attestation comes from its home directly. Where both
differ, one of them lied, and only the origin knows which: the chunk is fetched from there, and the liar is named.
Neither proves an object. Its own checksum does, before it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Lie(NamedTuple):
    node: str
    reason: str


class _Attested(NamedTuple):
    node: str
    crc64: int


class Attestations:
    """Of one object. Not thread-safe."""

    def __init__(self) -> None:
        self._attested: dict[int, _Attested] = {}
        self._origin: dict[int, int] = {}
        """CRC64NVME of the chunks that this agent had from the origin itself."""
        self._accused: dict[int, list[str]] = {}
        """By chunk, the members whose bytes were not what was attested."""

    def hear(self, node: str, crcs: Mapping[int, int]) -> Lie | None:
        """Note what a member attests; return its lie where this agent knows better.

        The first word on a chunk counts, so that no later one can undo it.
        """
        for number, crc64 in crcs.items():
            if self._origin.get(number, crc64) != crc64:
                return _false_word(node, number)
            self._attested.setdefault(number, _Attested(node, crc64))
        return None

    def expected(self, number: int) -> int | None:
        attested = self._attested.get(number)
        return attested.crc64 if attested is not None and number not in self._accused else None

    def accuse(self, number: int, node: str) -> None:
        """Note that what `node` sent is not what was attested."""
        self._accused.setdefault(number, []).append(node)

    def judge(self, number: int, crc64: int) -> tuple[list[Lie], list[str]]:
        """Name who lied about a chunk, now that the origin has sent it; return the liars and those acquitted."""
        self._origin[number] = crc64
        accused = self._accused.pop(number, [])
        attested = self._attested.get(number)
        if attested is None:
            return [], accused
        if attested.crc64 == crc64:
            return [Lie(node, f"sent other bytes than the origin's for chunk {number}") for node in accused], []
        del self._attested[number]
        return [_false_word(attested.node, number)], accused

    def forget(self, node: str) -> None:
        """Drop the word of a member that is banned."""
        self._attested = {number: said for number, said in self._attested.items() if said.node != node}


def _false_word(node: str, number: int) -> Lie:
    return Lie(node, f"attested another CRC64NVME than the origin's for chunk {number}")
