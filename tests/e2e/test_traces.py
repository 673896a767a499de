"""One trace shows a Pod's whole way, through workflow, operator and agent, of a download over TLS, to a collector."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.telemetry import spans
from tests.bench.engine_origin import make_certificate
from tests.e2e.promises import MIB, released, temporal, workflow_id
from tests.telemetry.collector import Collector, Received, collector
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

_OBJECTS = [40 * MIB + 3, 9 * MIB, 5]


class TlsFront:
    """TLS in front of a server that has none, on an event loop of its own: what comes is passed on as it is."""

    def __init__(self, folder: Path, port: int) -> None:
        make_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(30)
        self.environment = {
            "AWS_ENDPOINT_URL_S3": f"https://localhost:{self._server.sockets[0].getsockname()[1]}",
            "AWS_CA_BUNDLE": str(folder / "ca.pem"),
        }

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer), return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def traced(stack: Stack, found: Collector, front: TlsFront) -> Iterator[str]:
    """Let the operator, and an agent of the test's own, send traces; yield the agent's node."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    stack.operator.restart(kill=False, env=environment)
    node = stack.add_node(with_agent=False)
    try:
        stack.start_agent(node, {**environment, **front.environment})
        yield node
    finally:
        stack.remove_node(node)


@pytest.fixture
def front(stack: Stack, tmp_path: Path) -> Iterator[TlsFront]:
    made = TlsFront(tmp_path, stack.s3.port)
    yield made
    made.close()


def test_a_miss_and_a_hit_are_one_whole_trace_each(stack: Stack, pods: Pods, bucket: Bucket, front: TlsFront) -> None:
    content, uri = bucket.fill("gpt", _OBJECTS), bucket.uri("gpt")
    with collector() as found, traced(stack, found, front) as node:
        spec = {"nodeSelector": {"kubernetes.io/hostname": node}}
        pods.create_gated("cold", uri, spec=spec)
        assert released(stack, pods, "cold", uri, content) == node
        miss = whole_trace(found, pods, "cold", "publish")
        pods.create_gated("warm", uri, spec=spec)
        assert released(stack, pods, "warm", uri, content) == node
        hit = whole_trace(found, pods, "warm", "patch_gate")

        told = pods.get("cold")["metadata"]["annotations"][names.TRACE_ANNOTATION]
        assert told == miss[0].trace
        assert any(told in event["note"] for event in pods.events("cold"))
        memo = json.loads(
            temporal(stack, "workflow", "describe", "--workflow-id", workflow_id(pods.get("cold")), "--output", "json")
        )["workflowExecutionInfo"]["memo"]
        assert told in json.dumps(memo)
        assert told in stack.agents[node].log.read_text(), "the line of the download names the trace"

    steps_add_up(miss, {"start", "resolve", "seat", "check", "stream", "release"})
    steps_add_up(hit, {"start", "resolve", "seat", "check", "release"})
    assert not [span for span in hit if span.name == "stream_dataset"]
    download(miss, sum(map(len, content.values())))


def whole_trace(found: Collector, pods: Pods, name: str, last: str) -> list[Received]:
    """Wait until the trace has its root, a span named `last`, and the parent of each span."""
    trace = spans.trace_id(pods.get(name)["metadata"]["uid"])

    def whole() -> bool:
        its = found.of(trace)
        ids = {span.id for span in its} | {""}
        return {"", last} <= {span.parent for span in its} | {span.name for span in its} and all(
            span.parent in ids for span in its
        )

    true(whole, f"the trace of {name} is whole")
    its = found.of(trace)
    (root,) = [span for span in its if not span.parent]
    assert root.name == f"pod {pods.namespace}/{name}"
    assert {span.resource["service.name"] for span in its} == {"kube-cache-operator", "kube-cache-agent"}
    return its


def steps_add_up(its: list[Received], expected: set[str]) -> None:
    """Check that the steps are there, and together as long as the Pod's way."""
    (root,) = [span for span in its if not span.parent]
    steps = [span for span in its if span.parent == root.id]
    assert expected <= {span.name for span in steps}
    assert sum(span.seconds for span in steps) == pytest.approx(root.seconds, rel=0.1)


def download(its: list[Received], size: int) -> None:
    """Check what the agent says of the download: below the step of the Pod, objects with network and decryption."""
    (fetched,) = [span for span in its if span.name == "stream_dataset"]
    (step,) = [span for span in its if span.name == "stream"]
    assert fetched.parent == step.id
    assert step.links == [(fetched.trace, fetched.id)]
    assert fetched.attributes["kube_cache.fetched_bytes"] == size
    assert {"wait", "resolve", "publish"} <= {span.name for span in its if span.parent == fetched.id}
    objects = [span for span in its if span.parent == fetched.id and span.name.startswith("object ")]
    assert sum(span.attributes["kube_cache.bytes"] for span in objects) == size
    assert len(objects) == len(_OBJECTS)
    assert sum(span.attributes["kube_cache.network_s"] for span in objects) > 0
    for one in objects:
        # What comes with the head of the answer was decrypted with it.
        assert one.attributes["kube_cache.decrypt_s"] > 0 or one.attributes["kube_cache.bytes"] < MIB
        assert fetched.start_ns <= one.start_ns <= one.end_ns <= fetched.end_ns
        ranges = [span for span in its if span.parent == one.id]
        assert ranges or one.attributes["kube_cache.ranges"] == 1
        for each in ranges:
            if each.attributes["kube_cache.bytes"] >= MIB and each.attributes["kube_cache.kept"] != "sampled":
                assert {"decrypt", "write"} <= {span.name for span in its if span.parent == each.id}
