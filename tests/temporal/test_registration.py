"""A Temporal namespace gets the search attributes that operators write; what stands in the way is said in words."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.errors import InvalidRequest
from kube_cache.temporal import search_attributes
from kube_cache.temporal.registration import register
from tools.stack.temporal import Temporal
from tools.stack.waiting import until


async def namespace(server: Temporal) -> Client:
    """A client of a new namespace, which has no search attributes of ours."""
    name = f"registration-{uuid.uuid4().hex[:8]}"
    client = await Client.connect(server.address, namespace=name)
    retention = Duration()
    retention.FromTimedelta(timedelta(days=1))
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=retention)
    )
    return client


async def known(client: Client) -> bool:
    """Whether the server's frontend has the namespace in its cache."""
    try:
        await client.count_workflows("WorkflowType = 'none'")
    except RPCError as error:
        assert error.status == RPCStatusCode.NOT_FOUND
        return False
    return True


def retried(server: Temporal, client: Client) -> list[str]:
    """Register, as soon as the frontend knows the namespace; it looks for new ones every few seconds."""

    def attempt() -> list[str] | None:
        async def once() -> list[str]:
            return await register(await Client.connect(server.address, namespace=client.namespace))

        try:
            return asyncio.run(once())
        except InvalidRequest as error:
            assert "temporal operator namespace create" in error.message
            return None

    found = until(attempt, lambda added: added is not None, "the frontend knows the new namespace")
    assert found is not None
    return found


def test_what_is_missing_is_registered_and_the_second_time_nothing_is(temporal_server: Temporal) -> None:
    client = asyncio.run(namespace(temporal_server))
    assert retried(temporal_server, client) == sorted(search_attributes.TYPES)
    assert retried(temporal_server, client) == []


def test_an_attribute_of_another_type_is_named_with_the_remedy(temporal_server: Temporal) -> None:
    async def spoil() -> Client:
        client = await namespace(temporal_server)
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={"KcBytes": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD},
            )
        )
        return client

    client = asyncio.run(spoil())

    async def again() -> None:
        await register(await Client.connect(temporal_server.address, namespace=client.namespace))

    with pytest.raises(
        InvalidRequest, match=r"KcBytes .* is a Keyword and has to be a Int;.*search-attribute remove --name KcBytes"
    ):
        asyncio.run(again())


def test_a_namespace_that_is_not_there_is_named_with_the_remedy(temporal_server: Temporal) -> None:
    async def elsewhere() -> None:
        await register(await Client.connect(temporal_server.address, namespace="nowhere"))

    with pytest.raises(InvalidRequest, match="temporal operator namespace create --namespace nowhere"):
        asyncio.run(elsewhere())


class Refusing:
    """A client's service that lets nobody add attributes, as that of Temporal Cloud does."""

    async def list_search_attributes(self, *_: object, **__: object) -> None:
        raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")


class CloudClient:
    """What `register` asks of a client, for a namespace with the attributes that are given."""

    namespace = "ml.a1b2c"
    operator_service = Refusing()

    def __init__(self, present: set[str]) -> None:
        self.present = present

    async def count_workflows(self, query: str, **_: object) -> None:
        if query.split(maxsplit=1)[0] not in self.present:
            raise RPCError("invalid query", RPCStatusCode.INVALID_ARGUMENT, b"")


def test_where_clients_may_not_add_attributes_the_command_that_adds_them_is_told() -> None:
    everything = set(search_attributes.TYPES)
    assert asyncio.run(register(CloudClient(everything))) == []
    command = r"tcld namespace search-attributes add --namespace ml\.a1b2c --search-attribute KcNode=Keyword`"
    with pytest.raises(InvalidRequest, match=rf"lacks the search attributes KcNode, .*unauthorized.*{command}"):
        asyncio.run(register(CloudClient(everything - {"KcNode"})))
