"""Only a checksum that ranges can be combined to is used."""

from __future__ import annotations

from kube_cache.dataset.checksums import Algorithm, DeclaredChecksum
from kube_cache.dataset.source import StoredPart
from kube_cache.engine.verify import combinable_checksum


def test_a_composite_whose_parts_are_unknown_is_not_used() -> None:
    composite = DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1", 2)
    assert combinable_checksum(composite, [], 10) is None
    assert combinable_checksum(composite, [StoredPart(4, b""), StoredPart(5, b"")], 10) is None
    assert combinable_checksum(composite, [StoredPart(4, b""), StoredPart(6, b"")], 10) is composite
    assert combinable_checksum(DeclaredChecksum(Algorithm.SHA256, b"x" * 32), [], 10) is None
