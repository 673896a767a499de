"""Puts the issuer of nodes' certificates together with the API server's reviews; nothing of it is loaded without it.

Any operator issues, whether it leads or not: the authority's key is the same, and nothing is kept. With the certificate
goes where the node is, by its labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kube_cache import names
from kube_cache.kube.client import KubeClient
from kube_cache.settings import OperatorSettings

if TYPE_CHECKING:
    from cli.operator_authority import AuthorityKeeper
    from kube_cache.peers.issuer import IssuerServer
    from kube_cache.peers.members import Place

_ZONE: Final = "topology.kubernetes.io/zone"
LabelsOf = Callable[[str], Mapping[str, str]]
"""Returns the labels of a node, none for one that is not there. Raises ApiError. Any thread may call."""


@contextlib.contextmanager
def serving_certificates(options: OperatorSettings, kube: KubeClient, labels_of: LabelsOf) -> Iterator[None]:
    """Issue certificates inside the context, and keep the authority's files where the cluster has it in a Secret.

    Raises InvalidRequest for files or an address that cannot be used; with a Secret that is told and tried again.
    """
    with contextlib.ExitStack() as closing:

        def issue() -> None:
            if options.issuer_address:
                closing.callback(_issuer(options, kube, labels_of).close)

        if options.peer_authority:
            closing.callback(_keeper(options, kube, issue).close)
        else:
            issue()
        yield


def _keeper(options: OperatorSettings, kube: KubeClient, on_files: Callable[[], None]) -> AuthorityKeeper:
    from cli.operator_authority import AuthorityKeeper  # noqa: PLC0415
    from kube_cache.kube.authority_secret import AuthoritySecret, Pair  # noqa: PLC0415
    from kube_cache.peers import authority  # noqa: PLC0415

    secret = AuthoritySecret(
        kube, namespace=names.SYSTEM_NAMESPACE, name=options.peer_authority, make=lambda: Pair(*authority.make())
    )
    return AuthorityKeeper(secret, Path(options.peer_key_file), Path(options.peer_certificate_file), on_files)


def _issuer(options: OperatorSettings, kube: KubeClient, labels_of: LabelsOf) -> IssuerServer:
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
    return IssuerServer(options.issuer_address, authority, reviews.node_of, place_of)
