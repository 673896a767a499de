"""Registration of our search attributes in a Temporal namespace, before operators write them.

A Temporal server of your own takes them from any client. Temporal Cloud refuses its clients that and has tools of its
own for it, so there it is only found out, by a query for each attribute, which are missing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.errors import InvalidRequest
from kube_cache.temporal.search_attributes import TYPES

_RPC_TIMEOUT: Final = timedelta(seconds=30)  # a server with a visibility store in SQL changes a table
_NOT_OURS: Final = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.UNAUTHENTICATED)


async def register(client: Client) -> list[str]:
    """Register what is missing in the client's namespace, and return the names. Again, it finds nothing to do.

    Raises InvalidRequest with the remedy, RPCError.
    """
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace), timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise InvalidRequest(
                f"Temporal has no namespace {client.namespace!r}; create it with `temporal operator namespace create"
                f" --namespace {client.namespace}`, or set TEMPORAL_NAMESPACE to another one"
            ) from error
        if error.status in _NOT_OURS:
            await _find_missing(client, error)
            return []
        raise
    present = {name: IndexedValueType.Name(kind) for name, kind in listed.custom_attributes.items()}
    wanted = {name: f"INDEXED_VALUE_TYPE_{kind.upper()}" for name, kind in TYPES.items()}
    for name in sorted(wanted.keys() & present.keys()):
        if present[name] != wanted[name]:
            raise InvalidRequest(
                f"search attribute {name} of the Temporal namespace {client.namespace!r} is a {_spoken(present[name])} and has"
                f" to be a {TYPES[name]}; give Kube-Cache a namespace of its own, or remove the attribute with"
                f" `temporal operator search-attribute remove --name {name}`"
            )
    missing = sorted(wanted.keys() - present.keys())
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={name: IndexedValueType.Value(wanted[name]) for name in missing},
            ),
            timeout=_RPC_TIMEOUT,
        )
    return missing


async def _find_missing(client: Client, refusal: RPCError) -> None:
    """Ask for each attribute by a query. Raises InvalidRequest that names the missing ones and how to add them."""
    missing = []
    for name in TYPES:
        try:
            await client.count_workflows(f"{name} IS NULL", rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            missing.append(name)
    if missing:
        flags = " ".join(f"--search-attribute {name}={TYPES[name]}" for name in missing)
        raise InvalidRequest(
            f"the Temporal namespace {client.namespace!r} lacks the search attributes {', '.join(missing)}, and does not let"
            f" this client add them ({refusal.message}); of Temporal Cloud, run `tcld namespace search-attributes add"
            f" --namespace {client.namespace} {flags}`, and set temporal.registerSearchAttributes=false in the chart"
        ) from refusal


def _spoken(kind: str) -> str:
    return kind.removeprefix("INDEXED_VALUE_TYPE_").title()
