"""Settings of the exchange between nodes: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default, unit and meaning stand beside each field; the environment's names are KUBE_CACHE_PEERS__<FIELD>. Does not read
the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Le

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class PeerSettings:
    """Settings of the exchange between nodes, `KUBE_CACHE_PEERS__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    enabled: bool = False
    """Feed other nodes, and be fed by them."""
    address: str = "0.0.0.0:9467"
    """`host:port` on which other nodes are served, with certificates of both ends; port 0 = any free one."""
    advertise: str = ""
    """Host or `host:port` under which other nodes reach this one (`status.podIP` by the downward API); needed."""
    zone: str = ""
    """Zone of the node; neighbours in it are asked before others. Empty = as the operator tells it, by the node's label
    `topology.kubernetes.io/zone`."""
    rack: str = ""
    """Rack of the node; neighbours in it are asked before those of the zone. Empty = as the operator tells it, by the
    label that `KUBE_CACHE_OPERATOR__RACK_LABEL` names."""
    seeds: str = ""
    """`host:port` between commas that lead to all agents, a headless Service's name for example: there nodes that want
    the same snapshot meet."""
    settle_s: Annotated[float, Ge(0)] = 1.0
    """Seconds in which a download listens before it asks the origin for anything, unless it hears of enough others.
    A download does not listen where the operator knows of no other node that wants the snapshot or has it."""
    ca_file: Path = Path("/etc/kube-cache/peers/ca.crt")
    """Authorities of the nodes' certificates, in PEM. Whoever has a certificate of one of them counts as the node that
    it names."""
    certificate_file: Path = Path("/etc/kube-cache/peers/tls.crt")
    """Certificate of this node with its chain, in PEM; one of its DNS names is the node's name. Read again when it
    changes, as are the others."""
    key_file: Path = Path("/etc/kube-cache/peers/tls.key")
    """Key of the certificate, in PEM."""
    issuer: str = ""
    """`host:port` of the operators' issuer of certificates: the agent makes a key, has it certified there, and writes
    `certificate_file` and `key_file` itself, whose folder should be in memory; empty = the files are there."""
    issuer_token_file: Path = Path("/var/run/secrets/kube-cache/peers/token")
    """Service account token for the issuer, of the audience `kube-cache-peers` and bound to the agent's Pod."""
    token_keys_file: Path = Path("/etc/kube-cache/peer-tokens/public.pem")
    """Public Ed25519 keys, or certificates of such, in PEM, of which one has signed each token that a node shows. Only
    the operator has the private one."""
    max_transfers: Annotated[int, Ge(1), Le(1024)] = 8
    """Maximum number of ranges that are sent to other nodes at once; who asks for more is told to ask another node.
    Few, because a range feeds nobody before it is whole: among 32 nodes 32 at once take 8 % longer."""
    max_bytes_per_s: Annotated[int, Ge(0)] = 0
    """Limit of what is sent to other nodes, in bytes per second; 0 = none. A share of the link is not offered, because
    in a Pod the kernel tells a made-up speed."""
