"""Reads rights out of Roles, and takes single ones out of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from tools.rbac.table import CLUSTER, Right
from tools.stack.api import Document

_KINDS = ("Role", "ClusterRole")
_BINDINGS = ("RoleBinding", "ClusterRoleBinding")


def rights(documents: Iterable[Document], account: str) -> list[Right]:
    """Return every single right that the Roles and bindings among the documents give to a service account."""
    found = list(documents)
    bound = {
        (each["roleRef"]["name"], each["metadata"].get("namespace", CLUSTER))
        for each in found
        if each["kind"] in _BINDINGS and any(subject["name"] == account for subject in each["subjects"])
    }
    roles = [each for each in found if each["kind"] in _KINDS]
    return [right for role in roles for right in of_role(role) if (right.role, right.namespace) in bound]


def of_role(role: Document) -> Iterator[Right]:
    meta = role["metadata"]
    for rule in role["rules"] or []:
        for each in product(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames") or [""]):
            yield Right(meta["name"], meta.get("namespace", CLUSTER), *each)


def without(role: Document, removed: Right) -> Document:
    """Return the role with all its rights but one, each as a rule of its own."""
    rules = [
        {
            "apiGroups": [right.group],
            "resources": [right.resource],
            "verbs": [right.verb],
            **({"resourceNames": [right.name]} if right.name else {}),
        }
        for right in of_role(role)
        if right != removed
    ]
    return {**role, "rules": rules}


def path(right: Right) -> str:
    """Return the API path of the role that holds the right."""
    place = f"namespaces/{right.namespace}/roles" if right.namespace else "clusterroles"
    return f"/apis/rbac.authorization.k8s.io/v1/{place}/{right.role}"
