"""Temporal's development server, with the settings that Kube-Cache needs.

`temporal-dev.yaml` has the same settings for a cluster, and a test compares the two. Measured on two cores, five
activities one after another: 550 ms with the server's defaults, 82 ms with these settings. The 550 ms are polling: a
queue processor asks 20 times a second for each shard, and this server has one shard.
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
    # One server and few pollers a queue: four partitions would only forward tasks to each other.
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
    # Polls at once of a namespace: two a node. The default of 1,200 ends at 600 nodes, and the SDK says nothing then.
    "frontend.namespaceCount": 12_000,
}

# Of the Go runtime: with its default, which collects at each doubling of a small heap, a tenth of the server's CPU time
# in a burst of hits was garbage collection. Near the limit it collects as often as it must.
ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "1536MiB"}

_READY_S = 90


@dataclass
class Temporal:
    address: str
    ui: str
    process: Process

    def stop(self) -> None:
        """Send SIGKILL; the database keeps what the server had acknowledged."""
        self.process.kill()

    def start(self) -> None:
        """Start again on the same ports, over the same database."""
        self.process = self.process.respawn()
        wait_ready(self.process, self.address)


def arguments(*, ip: str, port: int, ui_port: int, database: str) -> list[str]:
    """Return the command line after `temporal`."""
    command = [
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
    command += [f"--sqlite-pragma={key}={value}" for key, value in SQLITE_PRAGMAS.items()]
    command += [f"--dynamic-config-value={key}={value}" for key, value in DYNAMIC_CONFIG.items()]
    command += [f"--search-attribute={name}={kind}" for name, kind in search_attributes.TYPES.items()]
    return command


def start(processes: Processes, binary: Path, state: Path) -> Temporal:
    return ports.binding(2, lambda chosen: _start(processes, binary, state, *chosen))


def _start(processes: Processes, binary: Path, state: Path, port: int, ui_port: int) -> Temporal:
    database = state / "temporal.db"
    command = arguments(ip=ports.LOOPBACK, port=port, ui_port=ui_port, database=str(database))
    process = processes.spawn("temporal", [binary, *command], environment.clean(state, **ENVIRONMENT))
    address = f"{ports.LOOPBACK}:{port}"
    wait_ready(process, address)
    return Temporal(address, f"http://{ports.LOOPBACK}:{ui_port}", process)


def wait_ready(process: Process, address: str) -> None:
    """Wait for the namespace and its search attributes, which come some time after the ports accept connections."""
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
            response = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=NAMESPACE)
            )
            if search_attributes.TYPES.keys() <= response.custom_attributes.keys():
                return
            missing = "search attributes are missing"
        except RuntimeError as error:  # RPCError, and the error of connect while nothing listens
            missing = str(error)
        await asyncio.sleep(0.05)
    raise StackError(
        f"temporal does not serve namespace {NAMESPACE} after {_READY_S} s: {missing}; {process.log}:\n{process.tail()}"
    )
