"""The operator grants nodes what they may read of each other with the key that is mounted, also after a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.cluster.join_dataset import no_grant
from activities.cluster.peer_grants import granter
from kube_cache.contracts.common import Snapshot
from kube_cache.errors import AccessDenied, InvalidRequest
from kube_cache.peers.tokens import Verifier
from tests.peers.conftest import NODE, SNAPSHOT, eventually
from tools.stack.pki import Authority

DATASET = Snapshot("s3://models/a", SNAPSHOT, 1, 10)


def test_a_key_that_was_replaced_signs_from_then_on(tmp_path: Path) -> None:
    old, new = (Authority(tmp_path / name).token_key("key") for name in ("old", "new"))
    grant = granter(str(old.key))
    assert Verifier(old.certificate).read(grant(DATASET, NODE)).node == NODE
    new.key.replace(old.key)
    verifier = Verifier(new.certificate)

    def is_new() -> bool:
        try:
            return verifier.read(grant(DATASET, NODE)).snapshot == SNAPSHOT
        except AccessDenied:
            return False

    eventually(is_new)


def test_a_key_that_cannot_be_used_ends_the_start_with_words(tmp_path: Path) -> None:
    assert granter("") is no_grant
    with pytest.raises(InvalidRequest, match=r"PEER_KEY_FILE: cannot read .*missing"):
        granter(str(tmp_path / "missing"))
    (tmp_path / "key").write_text("no key")
    with pytest.raises(InvalidRequest, match=r"PEER_KEY_FILE: .*genpkey"):
        granter(str(tmp_path / "key"))


def test_a_key_that_the_operator_writes_later_grants_from_then_on(tmp_path: Path) -> None:
    key = Authority(tmp_path / "authority").token_key("key")
    grant = granter(str(tmp_path / "later"), comes_later=True)
    assert grant(DATASET, NODE) == ""
    key.key.replace(tmp_path / "later")
    assert Verifier(key.certificate).read(grant(DATASET, NODE)).node == NODE
