"""On a real API server operators make one authority among them, keep it in one Secret, and agents find its certificate.

The operator has the account and rights that the chart gives it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier

import pytest

from cli.operator_issuer import serving_certificates
from kube_cache import names
from kube_cache.errors import InvalidRequest, SourceUnavailable
from kube_cache.kube.authority_secret import AuthoritySecret, Pair
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.peers import authority
from kube_cache.peers.authority import Authority, require_native
from kube_cache.peers.enrolment import obtain
from kube_cache.peers.settings import PeerSettings
from kube_cache.settings import OperatorSettings
from tests.kube.fakes import api_server
from tests.kube.test_issued import SYSTEM, Agents, install_rights
from tools.rbac.table import PEERS
from tools.stack import Stack, api, ports
from tools.stack.waiting import true

SECRET, CONFIG = f"{SYSTEM}/secrets/{PEERS}", f"{SYSTEM}/configmaps/{PEERS}"


@pytest.fixture(autouse=True)
def empty(kube: Stack) -> Iterator[None]:
    """Secret and ConfigMap as the chart makes them."""
    install_rights(kube)
    yield
    for path in (SECRET, CONFIG):
        if kube.api.find(path):
            kube.api.request("PATCH", path, {"data": None}, content_type=api.MERGE)


def secret_of(kube: KubeClient, name: str = PEERS) -> AuthoritySecret:
    return AuthoritySecret(kube, namespace=names.SYSTEM_NAMESPACE, name=name, make=lambda: Pair(*authority.make()))


def published(kube: Stack) -> bytes:
    return str((kube.api.get(CONFIG).get("data") or {}).get("ca.crt", "")).encode()


def test_the_authority_is_made_and_told_to_agents(kube: Stack, kube_client: KubeClient, tmp_path: Path) -> None:
    key, certificate = secret_of(kube_client).ensure()
    assert secret_of(kube_client).ensure() == (key, certificate)
    assert published(kube) == certificate
    assert base64.b64decode(kube.api.get(SECRET)["data"]["tls.key"]) == key
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "certificate").write_bytes(certificate)
    issuing = Authority(tmp_path / "certificate", tmp_path / "key")
    assert issuing.issue(require_native().request()[1], "node-1").life_s


def test_operators_that_begin_at_once_have_one_authority(kube: Stack, kube_client: KubeClient) -> None:
    operators = 4
    together, made = Barrier(operators), count()

    def make() -> Pair:
        next(made)
        together.wait(90)  # each has seen the empty Secret
        return Pair(*authority.make())

    def ensure(_: int) -> Pair:
        return AuthoritySecret(kube_client, namespace=names.SYSTEM_NAMESPACE, name=PEERS, make=make).ensure()

    with ThreadPoolExecutor(operators) as pool:
        found = set(pool.map(ensure, range(operators)))
    assert next(made) == operators
    assert len(found) == 1
    assert published(kube) == found.pop().certificate


def test_an_authority_that_was_emptied_or_replaced_is_another_one(kube: Stack, kube_client: KubeClient) -> None:
    first = secret_of(kube_client).ensure()
    kube.api.request("PATCH", SECRET, [{"op": "remove", "path": "/data"}], content_type=api.JSON_PATCH)
    second = secret_of(kube_client).ensure()
    assert second.key != first.key
    assert published(kube) == second.certificate
    theirs = Pair(*authority.make())
    data = {"tls.key": theirs.key.decode(), "tls.crt": theirs.certificate.decode()}
    kube.api.request("PATCH", SECRET, {"stringData": data}, content_type=api.MERGE)
    assert secret_of(kube_client).ensure() == theirs
    assert published(kube) == theirs.certificate


def test_an_operator_reads_no_other_secret_and_makes_none(kube: Stack, kube_client: KubeClient) -> None:
    for method, path in (
        ("GET", f"{SYSTEM}/secrets/other"),
        ("GET", f"{SYSTEM}/secrets"),
        ("POST", f"{SYSTEM}/secrets"),
    ):
        with pytest.raises(ApiError) as refused:
            kube_client.request(method, path, {"metadata": {"name": "other"}} if method == "POST" else None)
        assert refused.value.status == 403


def test_a_secret_that_is_not_there_or_holds_rubbish_is_told_with_the_remedy() -> None:
    with api_server(lambda *_: (404, b"{}", {})) as server, pytest.raises(InvalidRequest, match="install it again"):
        secret_of(server.client).ensure()
    rubbish = json.dumps({"data": {"tls.crt": "%", "tls.key": "%"}}).encode()
    with api_server(lambda *_: (200, rubbish, {})) as server, pytest.raises(InvalidRequest, match="empty it"):
        secret_of(server.client).ensure()


def test_an_agent_gets_a_certificate_of_the_authority_that_the_operator_has_made(
    kube: Stack, kube_client: KubeClient, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{ports.free(1)[0]}"
    options = OperatorSettings(
        peer_key_file=str(tmp_path / "tls.key"),
        peer_certificate_file=str(tmp_path / "tls.crt"),
        peer_authority=PEERS,
        issuer_address=address,
    )
    agents = Agents(kube)
    (tmp_path / "token").write_text(agents.token(agents.pod(kube.nodes[0])))
    settings = PeerSettings(
        ca_file=tmp_path / "ca.crt",
        certificate_file=tmp_path / "node.crt",
        key_file=tmp_path / "node.key",
        issuer=address,
        issuer_token_file=tmp_path / "token",
    )

    def is_issued() -> bool:
        settings.ca_file.write_bytes(published(kube))  # as the kubelet mounts the ConfigMap
        try:
            return obtain(settings).life_s > 0
        except (InvalidRequest, SourceUnavailable):  # no authority yet, or no issuer
            return False

    try:
        with serving_certificates(options, kube_client, lambda _: {}):
            true(is_issued, "an agent has its certificate")
        assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600
    finally:
        agents.delete_all()
