"""Whose a service account token is: asked of the API server, which also knows tokens that ended with their Pod.

Tells on which node a Pod of one account runs, and nothing about any other. The node's name stands in the token since
Kubernetes 1.32, put there by the API server when the kubelet asked for it; what the bearer says of itself never counts.
"""

from __future__ import annotations

from typing import Any, Final

from kube_cache.errors import AccessDenied
from kube_cache.kube.client import KubeClient

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_NODE: Final = "authentication.kubernetes.io/node-name"
_POD: Final = "authentication.kubernetes.io/pod-name"


class TokenReviews:
    """Any thread may call."""

    def __init__(self, kube: KubeClient, *, audience: str, namespace: str, account: str) -> None:
        """audience: that a token must be for. namespace, account: whose it must be."""
        self._kube = kube
        self._audience = audience
        self._user = f"system:serviceaccount:{namespace}:{account}"

    def node_of(self, token: str) -> str:
        """Return the node of the Pod that the token is bound to.

        Raises AccessDenied, whose detail `reason` is `token`, `account` or `node`, and ApiError.
        """
        spec = {"token": token, "audiences": [self._audience]}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status: dict[str, Any] = self._kube.create(_PATH, review).get("status") or {}
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or ()):
            raise AccessDenied(
                f"the API server does not take the token for the audience {self._audience}:"
                f" {status.get('error') or 'it gives no reason'}",
                reason="token",
            )
        user = status.get("user") or {}
        if user.get("username") != self._user:
            raise AccessDenied(f"the token is that of {user.get('username')}, not of {self._user}", reason="account")
        extra = user.get("extra") or {}
        nodes, pods = extra.get(_NODE) or [], extra.get(_POD) or []
        if not pods or len(nodes) != 1 or not nodes[0]:
            raise AccessDenied(
                f"the token of {self._user} names no node: it must be bound to a Pod, and the API server be Kubernetes"
                f" 1.32 or newer, which writes {_NODE} into it",
                reason="node",
            )
        return str(nodes[0])
