"""Labels of a seat: those of its Pod under keys of our own, so that nothing but this project selects seats by them.

A controller, Service or PodDisruptionBudget that selects the Pod by its labels must not find the seat. A seat therefore
has each label of its Pod under a key made from a hash of the label's key, with the label's value, and one more label
that names the Pod's namespace. Constraints among peers are translated to these keys by the same functions: the
scheduler and the API server then select the seats of the Pods that a selector means. All labels are translated, because
the Pod whose constraint selects them need not exist yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from kube_cache import names
from kube_cache.kube.client import Json

_PREFIX = f"{names.DOMAIN}/label-"
# The part of a label's key after the slash has at most 63 characters, six of which are `label-`. 40 hex digits are 160
# bits: no two keys share them by chance.
_HASH_CHARACTERS = 40
POD_NAMESPACE_LABEL = f"{names.DOMAIN}/pod-namespace"


def seat_labels(pod: Json) -> dict[str, str]:
    """Return the labels of the Pod's seat, without the one that says that it is a seat."""
    labels = pod["metadata"].get("labels") or {}
    translated = {seat_key(key): value for key, value in labels.items()}
    return {**translated, POD_NAMESPACE_LABEL: pod["metadata"]["namespace"]}


def seat_key(key: str) -> str:
    """Return the key under which a seat has the Pod's label `key`."""
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()[:_HASH_CHARACTERS]


def seat_selector(selector: Json | None, namespaces: Collection[str] | None) -> Json | None:
    """Translate a labelSelector for Pods of these namespaces (None: of all) into one for their seats.

    None as selector matches nothing, in Kubernetes as here.
    """
    if selector is None:
        return None
    expressions = [
        {**expression, "key": seat_key(expression["key"])} for expression in selector.get("matchExpressions") or []
    ]
    if namespaces is None:
        expressions.append({"key": POD_NAMESPACE_LABEL, "operator": "Exists"})
    else:
        expressions.append({"key": POD_NAMESPACE_LABEL, "operator": "In", "values": sorted(namespaces)})
    labels = {seat_key(key): value for key, value in (selector.get("matchLabels") or {}).items()}
    return {**({"matchLabels": labels} if labels else {}), "matchExpressions": expressions}
