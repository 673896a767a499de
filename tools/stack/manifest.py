"""What is shipped for Kubernetes, `deploy/deploy.yaml`: rules, which a stack applies, and workloads, which it plays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.stack import api

PATH = Path(__file__).parents[2] / "deploy" / "deploy.yaml"
_WORKLOADS = ("Deployment", "DaemonSet", "PodDisruptionBudget")


def workloads() -> Iterator[api.Document]:
    """Yield what runs in a cluster, and as processes in a stack."""
    return (document for document in api.documents(PATH) if document["kind"] in _WORKLOADS)


def rules() -> Iterator[api.Document]:
    """Yield all else: namespaces, accounts and their rights, priority classes, admission policies."""
    return (document for document in api.documents(PATH) if document["kind"] not in _WORKLOADS)
