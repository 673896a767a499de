"""Puts the issuer of nodes' certificates together with the API server's reviews; nothing of it is loaded without it.

Any operator issues, whether it leads or not: the authority's key is the same, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_cache import names
from kube_cache.kube.client import KubeClient
from kube_cache.settings import OperatorSettings


@contextmanager
def serving_certificates(options: OperatorSettings, kube: KubeClient) -> Iterator[None]:
    """Issue certificates inside the context. Raises InvalidRequest for files or an address that cannot be used."""
    if not options.issuer_address:
        yield
        return
    from kube_cache.kube.token_reviews import TokenReviews  # noqa: PLC0415
    from kube_cache.peers.authority import Authority  # noqa: PLC0415
    from kube_cache.peers.issuer import IssuerServer  # noqa: PLC0415

    reviews = TokenReviews(
        kube, audience=names.PEERS_AUDIENCE, namespace=names.SYSTEM_NAMESPACE, account=names.AGENT_ACCOUNT
    )
    authority = Authority(Path(options.peer_certificate_file), Path(options.peer_key_file))
    server = IssuerServer(options.issuer_address, authority, reviews.node_of)
    try:
        yield
    finally:
        server.close()
