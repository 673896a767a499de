"""Temporal's development server, set up as Kube-Cache needs it.

The settings live here once; `temporal-dev.yaml` carries the same for a cluster, and a test compares the two. Measured
on two cores, five activities one after another: 550 ms as the server comes, 82 ms with these. The 550 ms are polling: a
queue processor asks 20 times a second a shard, and this server has one shard.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from kube_cache import names
from kube_cache.temporal import search_attributes
from tools.stack import environment, ports
from tools.stack.processes import Process, Processes, StackError

NAMESPACE = names.TEMPORAL_NAMESPACE
SQLITE_PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL"}
DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": 1000,
    "history.timerProcessorMaxPollRPS": 1000,
    "history.visibilityProcessorMaxPollRPS": 200,
    # One node, few pollers a queue: four partitions only forward tasks to each other.
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}

_READY_S = 90


@dataclass
class Temporal:
    address: str
    ui: str
    process: Process

    def stop(self) -> None:
        """SIGKILL. What it had acknowledged is in the file."""
        self.process.kill()

    def start(self) -> None:
        """Again on the same ports, over the same file."""
        self.process = self.process.again()
        wait_ready(self.process, self.address)


def arguments(*, ip: str, port: int, ui_port: int, database: str) -> list[str]:
    """Command line after `temporal`."""
    words = [
        "server",
        "start-dev",
        f"--ip={ip}",
        f"--port={port}",
        f"--ui-ip={ip}",
        f"--ui-port={ui_port}",
        "--ui-disable-news-fetch",
        f"--db-filename={database}",
        f"--namespace={NAMESPACE}",
        "--log-level=warn",
    ]
    words += [f"--sqlite-pragma={key}={value}" for key, value in SQLITE_PRAGMAS.items()]
    words += [f"--dynamic-config-value={key}={value}" for key, value in DYNAMIC_CONFIG.items()]
    words += [f"--search-attribute={name}={kind}" for name, kind in search_attributes.TYPES.items()]
    return words


def start(processes: Processes, binary: Path, state: Path) -> Temporal:
    return ports.binding(2, lambda picked: _start(processes, binary, state, *picked))


def _start(processes: Processes, binary: Path, state: Path, port: int, ui_port: int) -> Temporal:
    database = state / "temporal.db"
    words = arguments(ip=ports.LOOPBACK, port=port, ui_port=ui_port, database=str(database))
    process = processes.spawn("temporal", [binary, *words], environment.clean(state))
    address = f"{ports.LOOPBACK}:{port}"
    wait_ready(process, address)
    return Temporal(address, f"http://{ports.LOOPBACK}:{ui_port}", process)


def wait_ready(process: Process, address: str) -> None:
    """The UI's port answers first and the frontend a while before the namespace is there, so ask for what we need."""
    port = int(address.rpartition(":")[2])
    process.wait_until(lambda: ports.accepts(port), "gRPC port", _READY_S)
    asyncio.run(_serves(process, address))


async def _serves(process: Process, address: str) -> None:
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.client import Client

    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_S
    missing = "no answer"
    while loop.time() < deadline:
        if not process.running:
            raise StackError(f"temporal ended with {process.code} before it served; {process.log}:\n{process.tail()}")
        try:
            client = await Client.connect(address, namespace=NAMESPACE)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
            found = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=NAMESPACE)
            )
            if search_attributes.TYPES.keys() <= found.custom_attributes.keys():
                return
            missing = "search attributes are missing"
        except RuntimeError as error:  # RPCError, and what connect raises while nothing listens
            missing = str(error)
        await asyncio.sleep(0.05)
    raise StackError(
        f"temporal does not serve namespace {NAMESPACE} after {_READY_S} s: {missing}; {process.log}:\n{process.tail()}"
    )
