"""Only the operator's key mints tokens, and a token says no more than what was signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kube_cache.errors import AccessDenied, InvalidRequest
from kube_cache.peers.tokens import Grant, Mint, Verifier
from tests.peers.conftest import NODE, SNAPSHOT, Cluster
from tools.stack.pki import Authority


def test_a_token_says_what_was_granted(cluster: Cluster) -> None:
    token = cluster.mint.token(SNAPSHOT, NODE, 1000.0, life_s=60)
    grant = Verifier(cluster.public_keys).read(token)
    assert grant == Grant(SNAPSHOT, NODE, 1060)
    grant.check(SNAPSHOT, frozenset({"another", NODE}), 1060)
    with pytest.raises(AccessDenied, match="clocks"):
        grant.check(SNAPSHOT, frozenset({NODE}), 1060 + 61)


@pytest.mark.parametrize("place", [0, 4, 10, 40, 80, -40, -2])
def test_a_changed_token_is_refused(cluster: Cluster, place: int) -> None:
    token = cluster.token()
    letter = "1" if token[place] != "1" else "2"
    changed = token[:place] + letter + token[place:][1:]
    with pytest.raises(AccessDenied):
        Verifier(cluster.public_keys).read(changed)


@pytest.mark.parametrize("text", ["", "x" * 10_000, "kc1.1.2.3.4", "kc1.ünicode", "kc2" + "." * 5])
def test_what_is_no_token_is_refused(cluster: Cluster, text: str) -> None:
    with pytest.raises(AccessDenied):
        Verifier(cluster.public_keys).read(text)


def test_a_key_is_replaced_by_adding_the_new_one_first(cluster: Cluster, tmp_path: Path) -> None:
    new = Authority(tmp_path / "new").token_key("new")
    old_token, new_token = cluster.token(), Mint(new.key.read_bytes()).token(SNAPSHOT, NODE, 0.0)
    with pytest.raises(AccessDenied, match="not signed"):
        Verifier(cluster.public_keys).read(new_token)
    both = tmp_path / "both.pem"
    both.write_bytes(cluster.public_keys.read_bytes() + new.certificate.read_bytes())
    verifier = Verifier(both)
    assert verifier.read(old_token).node == verifier.read(new_token).node == NODE


def test_the_keys_of_openssl_are_taken(tmp_path: Path) -> None:
    """As the documentation tells people to make them."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    token = Mint(private.read_bytes()).token(SNAPSHOT, NODE, 0.0)
    assert Verifier(public).read(token).node == NODE


def test_an_agent_cannot_mint_with_what_it_has(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="genpkey"):
        Mint(cluster.public_keys.read_bytes())
    with pytest.raises(InvalidRequest, match="pubout"):
        Verifier(tmp_path / "missing")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="no public key"):
        Verifier(tmp_path / "empty")
    other = tmp_path / "certificate"
    other.write_bytes(cluster.authority.signing_key("elliptic").certificate.read_bytes())
    with pytest.raises(InvalidRequest, match="Ed25519"):
        Verifier(other)
