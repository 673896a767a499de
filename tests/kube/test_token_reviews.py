"""The API server says on which node the bearer of a token runs, and of everybody else why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube_cache.errors import AccessDenied
from kube_cache.kube.client import ApiError
from kube_cache.kube.token_reviews import TokenReviews
from tests.kube.fakes import Answer, api_server

AGENT = "system:serviceaccount:kube-cache-system:kube-cache-agent"
ON_NODE = {"authentication.kubernetes.io/node-name": ["gpu-1"], "authentication.kubernetes.io/pod-name": ["agent-x"]}
WITHOUT_POD = {"authentication.kubernetes.io/node-name": ["gpu-1"]}
WITHOUT_NODE = {"authentication.kubernetes.io/pod-name": ["agent-x"]}


def status(*, user: str = AGENT, extra: dict[str, Any] = ON_NODE, **changed: Any) -> dict[str, Any]:
    return {
        "authenticated": True,
        "audiences": ["kube-cache-peers"],
        "user": {"username": user, "extra": extra},
    } | changed


def node_of(answered: Answer) -> tuple[str, dict[str, Any]]:
    """Return the node, and what the API server was asked."""
    with api_server(lambda *_: answered) as server:
        reviews = TokenReviews(
            server.client, audience="kube-cache-peers", namespace="kube-cache-system", account="kube-cache-agent"
        )
        return reviews.node_of("the-token"), json.loads(server.bodies[0])


def reviewed(found: dict[str, Any]) -> Answer:
    return 201, json.dumps({"status": found}).encode(), {}


def test_the_node_of_an_agent_is_told() -> None:
    node, asked = node_of(reviewed(status()))
    assert node == "gpu-1"
    assert asked["kind"] == "TokenReview"
    assert asked["spec"] == {"token": "the-token", "audiences": ["kube-cache-peers"]}


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        pytest.param({"error": "token has expired"}, "token", "token has expired", id="refused by the server"),
        pytest.param({}, "token", "it gives no reason", id="no status"),
        pytest.param(status(authenticated=False), "token", "kube-cache-peers", id="not authenticated"),
        # Of a server whose authenticator knows no audiences.
        pytest.param(status(audiences=None), "token", "kube-cache-peers", id="no audience"),
        pytest.param(status(audiences=["other"]), "token", "kube-cache-peers", id="another audience"),
        pytest.param(status(user="system:node:gpu-1"), "account", "system:node:gpu-1", id="a kubelet"),
        pytest.param(status(user=AGENT + "2"), "account", "kube-cache-agent2", id="another account"),
        pytest.param(status(extra={}), "node", "1.32", id="a server before 1.32"),
        pytest.param(status(extra=WITHOUT_NODE), "node", "1.32", id="no node"),
        pytest.param(status(extra=WITHOUT_POD), "node", "bound to a Pod", id="no Pod"),
    ],
)
def test_everybody_else_is_refused_with_the_reason(found: dict[str, Any], reason: str, words: str) -> None:
    with pytest.raises(AccessDenied) as refused:
        node_of(reviewed(found))
    assert refused.value.details["reason"] == reason
    assert words in refused.value.message


@pytest.mark.parametrize("code", [403, 500])
def test_a_server_that_does_not_review_is_no_refusal(code: int) -> None:
    """The operator lacks the right, or the server is ill: the agent asks again."""
    with pytest.raises(ApiError):
        node_of((code, b'{"message": "no"}', {}))
