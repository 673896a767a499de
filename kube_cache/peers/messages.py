"""What a member tells another one about itself: a `Have`, as compressed JSON.

Numbers of objects are places in the snapshot's objects sorted by id, which all members know. A message speaks of its
sender, and only names others: nothing in it is believed of a third member but that somebody else may have a chunk.
Its size does not grow with the swarm.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kube_cache.errors import KubeCacheError
from kube_cache.peers.members import Member

VERSION: Final = 1
MAX_BYTES: Final = 256 << 10
"""Of an encoded message. 100,000 objects are 12 KiB of bits before compression, 512 open ones of 64 chunks 10 KiB."""
_MAX_JSON_BYTES: Final = 2 << 20
MAX_OBJECTS: Final = 1_000_000
MAX_CHUNKS: Final = 1 << 17
"""Of one object: 8 TiB in the engine's largest ranges. Larger ones come from the origin."""
MAX_OPEN: Final = 512
"""Objects of which a member has a part, as many as the engine has open."""
MAX_ATTESTED: Final = 2048
MAX_OTHERS: Final = 16
_MAX_NAME: Final = 253


class MessageRefused(KubeCacheError):
    """Not a message, or one that is too large or of another version."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Have:
    """What `sender` has of the snapshot. Mappings are by the object's number; sets of chunks are bitmaps."""

    snapshot: str
    sender: Member
    epoch: int = 0
    whole: int = 0
    """Objects that the sender has, verified as a whole: a bitmap."""
    parts: Mapping[int, int] = field(default_factory=dict)
    """Chunks that the sender has of other objects."""
    fetching: Mapping[int, int] = field(default_factory=dict)
    """Chunks that the sender is bringing from the origin now."""
    seen: Mapping[int, int] = field(default_factory=dict)
    """Chunks that a member has which the sender reached: hearsay, and never told on."""
    attested: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    """CRC64NVME of chunks that the sender had from the origin itself, by their number; the newest `MAX_ATTESTED`."""
    others: tuple[Member, ...] = ()
    """Some members that the sender knows, so that a member that knows one comes to know all."""
    bystander: bool = False
    """The sender takes no part in the swarm, and only names others."""


def encode(message: Have) -> bytes:
    document = {
        "v": VERSION,
        "snapshot": message.snapshot,
        "sender": _member(message.sender),
        "epoch": message.epoch,
        "whole": _text(message.whole),
        "parts": _texts(message.parts),
        "fetching": _texts(message.fetching),
        "seen": _texts(message.seen),
        "attested": {
            str(number): {str(chunk): crc for chunk, crc in crcs.items()} for number, crcs in message.attested.items()
        },
        "others": [_member(member) for member in message.others[:MAX_OTHERS]],
        "bystander": message.bystander,
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def decode(data: bytes) -> Have:
    """Raises MessageRefused for whatever `encode` of this version cannot have written."""
    if len(data) > MAX_BYTES:
        raise MessageRefused(f"a message of {len(data)} bytes is larger than the {MAX_BYTES} that are allowed")
    try:
        unpacked = zlib.decompressobj()
        text = unpacked.decompress(data, _MAX_JSON_BYTES)
        if not unpacked.eof:
            raise MessageRefused(f"a message is cut off, or larger than {_MAX_JSON_BYTES} bytes unpacked")
        document = json.loads(text)
        if document["v"] != VERSION:
            raise MessageRefused(f"a message is of version {document['v']!r}, not {VERSION}: roll the agents out")
        return _have(document)
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise MessageRefused(f"not a message of this version: {error!r}") from error


def decode_from(node: str, snapshot: str, data: bytes) -> Have:
    """Decode what a node sends about a snapshot. Raises MessageRefused, also where it speaks for another of either.

    node: the one that the sender's certificate names.
    """
    message = decode(data)
    if (message.sender.node, message.snapshot) != (node, snapshot):
        raise MessageRefused(f"node {node} sends a message of {message.sender.node} about {message.snapshot}")
    return message


def _have(document: Any) -> Have:
    attested = {
        _number(number, MAX_OBJECTS): {_number(chunk, MAX_CHUNKS): _integer(crc, 1 << 64) for chunk, crc in of.items()}
        for number, of in _limited(document["attested"], MAX_OPEN).items()
    }
    if sum(map(len, attested.values())) > MAX_ATTESTED:
        raise MessageRefused(f"a message attests more than {MAX_ATTESTED} chunks")
    others = document["others"]
    if not isinstance(others, list) or len(others) > MAX_OTHERS:
        raise MessageRefused(f"a message names more than {MAX_OTHERS} members")
    return Have(
        snapshot=_name(document["snapshot"]),
        sender=_read_member(document["sender"]),
        epoch=_integer(document["epoch"], 1 << 62),
        whole=_bitmap(document["whole"], MAX_OBJECTS),
        parts=_bitmaps(document["parts"]),
        fetching=_bitmaps(document["fetching"]),
        seen=_bitmaps(document["seen"]),
        attested=attested,
        others=tuple(_read_member(member) for member in others),
        bystander=document["bystander"] is True,
    )


def _member(member: Member) -> list[str]:
    return [member.node, member.address, member.zone, member.rack]


def _read_member(value: Any) -> Member:
    node, address, zone, rack = (_name(part) for part in value)
    if not node:
        raise MessageRefused("a member has no name")
    return Member(node, address, zone, rack)


def _text(bitmap: int) -> str:
    return base64.b64encode(bitmap.to_bytes((bitmap.bit_length() + 7) // 8, "little")).decode()


def _texts(bitmaps: Mapping[int, int]) -> dict[str, str]:
    return {str(number): _text(bitmap) for number, bitmap in bitmaps.items()}


def _bitmap(text: Any, limit: int) -> int:
    bitmap = int.from_bytes(base64.b64decode(text, validate=True), "little")
    if bitmap.bit_length() > limit:
        raise MessageRefused(f"a message counts further than {limit}")
    return bitmap


def _bitmaps(value: Any) -> dict[int, int]:
    return {
        _number(number, MAX_OBJECTS): _bitmap(text, MAX_CHUNKS) for number, text in _limited(value, MAX_OPEN).items()
    }


def _limited(value: Any, limit: int) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > limit:
        raise MessageRefused(f"a message has more than {limit} entries of a kind")
    return value


def _number(text: str, limit: int) -> int:
    return _integer(int(text), limit)


def _integer(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise MessageRefused(f"{value!r} is not a number below {limit}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise MessageRefused(f"a name is not text of at most {_MAX_NAME} characters")
    return value
