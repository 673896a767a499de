"""Puts the issuer of nodes' certificates together with the API server's reviews; nothing of it is loaded without it.

Any operator issues, whether it leads or not: the authority's key is the same, and nothing is kept. With the certificate
goes where the node is, by its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kube_cache import names
from kube_cache.kube.client import KubeClient
from kube_cache.settings import OperatorSettings

if TYPE_CHECKING:
    from kube_cache.peers.members import Place

_ZONE: Final = "topology.kubernetes.io/zone"
LabelsOf = Callable[[str], Mapping[str, str]]
"""Returns the labels of a node, none for one that is not there. Raises ApiError. Any thread may call."""


@contextmanager
def serving_certificates(options: OperatorSettings, kube: KubeClient, labels_of: LabelsOf) -> Iterator[None]:
    """Issue certificates inside the context. Raises InvalidRequest for files or an address that cannot be used."""
    if not options.issuer_address:
        yield
        return
    from kube_cache.kube.token_reviews import TokenReviews  # noqa: PLC0415
    from kube_cache.peers.authority import Authority  # noqa: PLC0415
    from kube_cache.peers.issuer import IssuerServer  # noqa: PLC0415
    from kube_cache.peers.members import Place  # noqa: PLC0415

    def place_of(node: str) -> Place:
        labels = labels_of(node)
        return Place(labels.get(_ZONE, ""), labels.get(options.rack_label, ""))

    reviews = TokenReviews(
        kube, audience=names.PEERS_AUDIENCE, namespace=names.SYSTEM_NAMESPACE, account=names.AGENT_ACCOUNT
    )
    authority = Authority(Path(options.peer_certificate_file), Path(options.peer_key_file))
    server = IssuerServer(options.issuer_address, authority, reviews.node_of, place_of)
    try:
        yield
    finally:
        server.close()
