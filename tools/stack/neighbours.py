"""What agents of a stack need to feed each other: certificates, the tokens' key, and an address for each.

One loopback stands for all nodes, so each agent has a port of its own, and each is told all of them: no headless
Service leads to them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.stack import ports
from tools.stack.pki import Authority


class Neighbours:
    def __init__(self, folder: Path, count: int, settle_s: float) -> None:
        """folder: for keys and certificates. count: of nodes, with those to come. settle_s: see `PeerSettings`."""
        self._settle_s = settle_s
        self._authority = Authority(folder)
        self._tokens = self._authority.token_key("peer-tokens")
        self._ports = ports.free(count)
        self._given: dict[str, int] = {}

    def operator(self) -> Mapping[str, str]:
        """Return the variables with which an operator grants nodes what its Pods may read."""
        return {"KUBE_CACHE_OPERATOR__PEER_KEY_FILE": str(self._tokens.key)}

    def agent(self, node: str) -> Mapping[str, str]:
        port = self._given.get(node)
        if port is None:
            port = self._given[node] = self._ports[len(self._given)]
        certificate = self._authority.node(node)
        address = f"{ports.LOOPBACK}:{port}"
        return {
            "KUBE_CACHE_PEERS__ENABLED": "true",
            "KUBE_CACHE_PEERS__ADDRESS": address,
            "KUBE_CACHE_PEERS__ADVERTISE": address,
            "KUBE_CACHE_PEERS__SETTLE_S": str(self._settle_s),
            "KUBE_CACHE_PEERS__SEEDS": ",".join(f"{ports.LOOPBACK}:{other}" for other in self._ports),
            "KUBE_CACHE_PEERS__CA_FILE": str(self._authority.certificate),
            "KUBE_CACHE_PEERS__CERTIFICATE_FILE": str(certificate.certificate),
            "KUBE_CACHE_PEERS__KEY_FILE": str(certificate.key),
            "KUBE_CACHE_PEERS__TOKEN_KEYS_FILE": str(self._tokens.certificate),
        }
