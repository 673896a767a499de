"""On a real API server an agent's own token gets the certificate of its node, and no other token gets any.

The operator has the account and rights that the chart gives it, and the agent a token as the kubelet would mount it.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from cli.operator_issuer import serving_certificates
from kube_cache import names
from kube_cache.errors import AccessDenied
from kube_cache.kube.client import KubeClient
from kube_cache.peers.enrolled_node import EnrolledNode
from kube_cache.peers.enrolment import obtain
from kube_cache.peers.members import Place
from kube_cache.peers.node import PeerNode
from kube_cache.peers.settings import PeerSettings
from kube_cache.peers.tokens import Mint
from kube_cache.settings import OperatorSettings
from tests.peers.conftest import SNAPSHOT
from tests.peers.issuing import Issuing
from tests.peers.test_node import LARGE, OBJECTS, hears_all_of, manifest
from tools.chart import helm
from tools.rbac.table import PEERS
from tools.stack import Stack, api, ports
from tools.stack.waiting import true as until
from watcher.nodes import NodeWatcher

SYSTEM = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}"
VALUES = {"temporal.address": "temporal.example:7233", "peers.enabled": True}

RACK = "example.com/rack"


def install_rights(kube: Stack) -> None:
    """Install what an operator needs that issues. A role that is there stays: `make rbac` takes rights out of it."""
    for document in helm.documents(VALUES):
        if document["metadata"]["name"] == PEERS and not kube.api.find(f"{kube.api.collection(document)}/{PEERS}"):
            kube.api.create(document)


@pytest.fixture(scope="module")
def rights(kube: Stack) -> None:
    install_rights(kube)


@pytest.fixture
def issuing(rights: None, kube_client: KubeClient, tmp_path: Path) -> Iterator[Issuing]:
    """An operator's issuer, and settings of agents that ask it."""
    made = Issuing(tmp_path)
    made.address = f"127.0.0.1:{ports.free(1)[0]}"
    options = OperatorSettings(
        peer_key_file=str(made.key), peer_certificate_file=str(made.certificate), issuer_address=made.address
    )
    options = replace(options, rack_label=RACK)
    with serving_certificates(options, kube_client, partial(labels_of, kube_client)):
        yield made


def labels_of(kube: KubeClient, node: str) -> Mapping[str, str]:
    """Read a node's labels as an operator does whose watch does not have it."""
    return NodeWatcher(kube, SimpleNamespace(), grace_s=0).labels_of(node)  # type: ignore[arg-type]


class Agents:
    """Agents' Pods, in the namespace and of the account that the chart gives them, and tokens of theirs."""

    def __init__(self, kube: Stack) -> None:
        self._kube = kube
        self.made: list[str] = []

    def pod(
        self, node: str, account: str = names.AGENT_ACCOUNT, namespace: str = names.SYSTEM_NAMESPACE
    ) -> dict[str, Any]:
        """Create a Pod; bound to the node, unless that is empty."""
        name = f"agent-{uuid.uuid4().hex[:8]}"
        spec = {"serviceAccountName": account, "containers": [{"name": "agent", "image": "agent"}]}
        if node:
            spec["nodeName"] = node
        else:
            spec["schedulingGates"] = [{"name": "example.com/never"}]
        meta = {"name": name, "namespace": namespace}
        pod = self._kube.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        self.made.append(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return pod

    def token(
        self, pod: dict[str, Any] | None, *, audience: str = names.PEERS_AUDIENCE, account: str = names.AGENT_ACCOUNT
    ) -> str:
        """Ask for a token as the kubelet does; of no Pod where there is none."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 3600}
        namespace = pod["metadata"]["namespace"] if pod else names.SYSTEM_NAMESPACE
        if pod:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self._kube.api.request("POST", path, body)["status"]["token"])

    def delete_all(self) -> None:
        for path in self.made:
            self._kube.api.delete(path, grace_s=0)


@pytest.fixture
def agents(kube: Stack) -> Iterator[Agents]:
    made = Agents(kube)
    yield made
    made.delete_all()


def with_token(issuing: Issuing, token: str, folder: str = "node") -> PeerSettings:
    settings = issuing.settings(folder)
    settings.issuer_token_file.write_text(token)
    return settings


def named(settings: PeerSettings) -> list[str]:
    """Return the names in the certificate that was issued."""
    certificate = x509.load_pem_x509_certificate(settings.certificate_file.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


def test_an_agent_gets_the_certificate_of_the_node_that_its_token_names(
    kube: Stack, issuing: Issuing, agents: Agents
) -> None:
    for node in kube.nodes[:2]:
        settings = with_token(issuing, agents.token(agents.pod(node)))
        assert obtain(settings).life_s == 24 * 3600
        assert named(settings) == [node]


def test_an_agent_is_told_where_its_node_is(kube: Stack, issuing: Issuing, agents: Agents) -> None:
    node, bare = kube.nodes[:2]
    labels = {"topology.kubernetes.io/zone": "zone-7", RACK: "rack-3"}
    kube.api.request("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}}, content_type=api.MERGE)
    try:
        assert obtain(with_token(issuing, agents.token(agents.pod(node)))).place == Place("zone-7", "rack-3")
    finally:
        back = {"topology.kubernetes.io/zone": "zone-a", RACK: None}
        kube.api.request("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": back}}, content_type=api.MERGE)
    assert obtain(with_token(issuing, agents.token(agents.pod(bare)))).place == Place("zone-a")


def begun(name: str, settings: PeerSettings) -> PeerNode:
    return PeerNode(name, settings, lambda remote: remote.key)


def test_two_nodes_feed_each_other_with_certificates_of_the_operator(
    kube: Stack, issuing: Issuing, agents: Agents, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.truncate(OBJECTS[LARGE])
    mint, parties, seeds = Mint(issuing.key.read_bytes()), [], ""
    with ExitStack() as stack:
        for name in kube.nodes[:2]:
            settings = replace(with_token(issuing, agents.token(agents.pod(name)), name), seeds=seeds)
            enrolled = EnrolledNode(settings, partial(begun, name))
            stack.callback(enrolled.close)
            node = until(lambda enrolled=enrolled: enrolled.node, f"{name} has its certificate")
            parties.append(stack.enter_context(node.join(manifest(), mint.token(SNAPSHOT, name, time.time()))))
            seeds = node.me.address
        parties[0].landed(LARGE, file)
        until(lambda: hears_all_of(parties[1], kube.nodes[0]), "the second node hears what the first one has")


def test_a_token_of_another_audience_is_refused(kube: Stack, issuing: Issuing, agents: Agents) -> None:
    """A token for the API server, and one for a cloud."""
    pod = agents.pod(kube.nodes[0])
    for audience in ("https://kubernetes.default.svc", "sts.amazonaws.com"):
        with pytest.raises(AccessDenied, match="does not take the token for the audience kube-cache-peers"):
            obtain(with_token(issuing, agents.token(pod, audience=audience)))


def test_a_token_of_another_account_is_refused(kube: Stack, issuing: Issuing, agents: Agents) -> None:
    """Of the operator, and of an account of the same name in another namespace."""
    pod = agents.pod(kube.nodes[0], account="kube-cache-operator")
    with pytest.raises(AccessDenied, match="is that of system:serviceaccount:kube-cache-system:kube-cache-operator"):
        obtain(with_token(issuing, agents.token(pod, account="kube-cache-operator")))
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    kube.cluster.create_namespace(namespace, exempt=True)
    try:
        meta = {"name": names.AGENT_ACCOUNT, "namespace": namespace}
        kube.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        pod = agents.pod(kube.nodes[0], namespace=namespace)
        with pytest.raises(AccessDenied, match=f"is that of system:serviceaccount:{namespace}:kube-cache-agent"):
            obtain(with_token(issuing, agents.token(pod)))
    finally:
        kube.api.delete(f"/api/v1/namespaces/{namespace}")


def test_a_token_without_a_node_is_refused(issuing: Issuing, agents: Agents) -> None:
    """Of no Pod, and of a Pod that is on no node yet."""
    for pod in (None, agents.pod("")):
        with pytest.raises(AccessDenied, match=r"names no node: .* 1\.32"):
            obtain(with_token(issuing, agents.token(pod)))


def test_a_token_ends_with_its_pod(kube: Stack, issuing: Issuing, agents: Agents) -> None:
    pod = agents.pod(kube.nodes[0])
    settings = with_token(issuing, agents.token(pod))
    obtain(settings)
    agents.delete_all()

    def refusal() -> str:
        try:
            obtain(settings)
        except AccessDenied as error:
            return error.message
        return ""  # the API server keeps what it has looked up for some seconds

    assert "does not take the token" in until(refusal, "the token of a deleted Pod is refused")


def test_an_expired_token_a_forged_one_and_garbage_are_refused(kube: Stack, issuing: Issuing, agents: Agents) -> None:
    real = agents.token(agents.pod(kube.nodes[0]))
    key = serialization.load_pem_private_key(
        kube.cluster.authority.with_name("service-account.key").read_bytes(), password=None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    # As long as it is not over it is as good as the server's own, so that it is refused for its time alone.
    settings = with_token(issuing, signed(real, key, exp=int(time.time()) + 600))
    assert obtain(settings)
    for token in (
        signed(real, key, exp=int(time.time()) - 600),
        signed(real, ec.generate_private_key(ec.SECP256R1()), exp=int(time.time()) + 600),
        "garbage",
        "a.b.c",
    ):
        with pytest.raises(AccessDenied, match="does not take the token"):
            obtain(with_token(issuing, token))


def signed(token: str, key: ec.EllipticCurvePrivateKey, **claims: Any) -> str:
    """Sign the claims of a token anew, some of them changed, as the API server does."""
    head, body, _ = token.split(".")
    made = json.loads(base64.urlsafe_b64decode(body + "==")) | {"iat": int(time.time()) - 3600} | claims
    text = f"{head}.{_encoded(json.dumps(made).encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
