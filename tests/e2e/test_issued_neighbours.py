"""Agents that have no certificate get one from the operator and feed each other: the product's own processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.promises import MIB, released
from tests.kube.test_issued import Agents, install_rights
from tests.peers.issuing import Issuing
from tools.stack import Stack, ports
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SHARED, LONE = 24 * MIB + 5, 7
"""Bytes of an object that nodes feed each other, and of one that each fetches from the origin."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two nodes whose agents know where operators issue certificates, and a third one that takes no part."""
    issuing = Issuing(tmp_path_factory.mktemp("authority"))
    issuing.address, *addresses = (f"{ports.LOOPBACK}:{port}" for port in ports.free(3))
    operator = {
        "KUBE_CACHE_OPERATOR__PEER_KEY_FILE": str(issuing.key),
        "KUBE_CACHE_OPERATOR__PEER_CERTIFICATE_FILE": str(issuing.certificate),
        "KUBE_CACHE_OPERATOR__ISSUER_ADDRESS": issuing.address,
    }
    with Stack(node_count=1, count_s3=True, operator_env=operator) as stack:
        install_rights(stack)
        agents = Agents(stack)
        for address in addresses:
            node = stack.add_node(with_agent=False)
            settings = issuing.settings(node)
            settings.issuer_token_file.write_text(agents.token(agents.pod(node)))
            issued = {
                "ENABLED": "true",
                "ADDRESS": address,
                "ADVERTISE": address,
                "SEEDS": ",".join(addresses),
                "SETTLE_S": 5,
                "CA_FILE": settings.ca_file,
                "TOKEN_KEYS_FILE": settings.token_keys_file,
                "CERTIFICATE_FILE": settings.certificate_file,
                "KEY_FILE": settings.key_file,
                "ISSUER": settings.issuer,
                "ISSUER_TOKEN_FILE": settings.issuer_token_file,
            }
            stack.start_agent(node, {f"KUBE_CACHE_PEERS__{name}": str(value) for name, value in issued.items()})
        yield stack


def test_agents_with_certificates_of_the_operator_fetch_a_dataset_once(fleet: Stack) -> None:
    nodes = fleet.nodes[1:]
    for node in nodes:
        log = fleet.agents[node].log
        true(lambda log=log: "serving other nodes" in log.read_text(), f"{node} has its certificate and serves")
    fleet.cluster.create_namespace("issued")
    pods, bucket = Pods(fleet.api, "issued"), Bucket(fleet.s3, "issued")
    content = bucket.fill("gpt", [SHARED, LONE])
    for node in nodes:
        pods.create_gated(node, bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    for node in nodes:
        assert released(fleet, pods, node, bucket.uri("gpt"), content) == node
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) == SHARED + 2 * LONE
