"""A disk that answers EIO and a wall clock that jumps back, by a preloaded shim: no kernel does these on request."""

from __future__ import annotations

import json
import struct
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.disk import DiskNode, digest_of, says
from tests.e2e.promises import MIB, event_reasons, released, still_gated
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

# S3 refuses requests whose clock is off by more than 15 minutes, and so does this server.
JUMP_S = 600


class Shim:
    def __init__(self, folder: Path) -> None:
        self._control = folder / "control"
        self._set()
        library = folder / "shim.so"
        compiler = sysconfig.get_config_var("CC").split()[0]
        source = Path(__file__).with_name("shim.c")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self.env = {"LD_PRELOAD": str(library), "SHIM_CONTROL": str(self._control)}

    def _set(self, eio: int = 0, shift_s: int = 0, eio_reads: int = 0) -> None:
        made = not self._control.exists()
        with self._control.open("wb" if made else "r+b") as file:
            file.write(struct.pack("@lll", eio, shift_s, eio_reads))

    @contextmanager
    def failing_disk(self) -> Iterator[None]:
        self._set(eio=1)
        try:
            yield
        finally:
            self._set()

    @contextmanager
    def dying_disk(self) -> Iterator[None]:
        """Nothing that is cached can be read from the medium; names and sizes can, as from the kernel's caches."""
        self._set(eio_reads=1)
        try:
            yield
        finally:
            self._set()

    @contextmanager
    def late_clock(self) -> Iterator[None]:
        self._set(shift_s=-JUMP_S)
        try:
            yield
        finally:
            self._set()


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    return Shim(tmp_path)


@pytest.fixture
def ill(stack: Stack, shim: Shim) -> Iterator[DiskNode]:
    made = DiskNode(stack, "size=64m,nr_inodes=3000", shim.env)
    yield made
    made.remove()


def test_a_disk_that_answers_eio_is_named_and_waited_for(
    stack: Stack, pods: Pods, bucket: Bucket, ill: DiskNode, shim: Shim
) -> None:
    content = bucket.fill("gpt", [12 * MIB, 5])
    agent = ill.agent.pid
    with shim.failing_disk():
        pods.create_gated("one", bucket.uri("gpt"), spec=ill.spec)
        message = says(pods, "one", "EIO")
        assert str(ill.root) in message
        true(lambda: "PersistentDiskFault" in event_reasons(pods, "one"), "it gave the disk up")
        true(lambda: "WaitingForDisk" in event_reasons(pods, "one"), "it waits")
        still_gated(pods, "one")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == ill.name
    assert ill.agent.pid == agent


@pytest.fixture
def scrubbed(stack: Stack, shim: Shim) -> Iterator[DiskNode]:
    """A node whose disk is scrubbed all the time."""
    often = {"KUBE_CACHE_STORE__SCRUB_EVERY_S": "0.2", "KUBE_CACHE_STORE__SCRUB_BYTES_PER_S": "1000000000"}
    made = DiskNode(stack, "size=64m,nr_inodes=3000", shim.env | often)
    yield made
    made.remove()


def test_a_dying_disk_is_named_and_no_pod_is_released_onto_it_and_nothing_is_condemned(
    stack: Stack, pods: Pods, bucket: Bucket, scrubbed: DiskNode, shim: Shim
) -> None:
    """What is cached stays cached: when the disk reads again, the Pod is released without a byte from the origin."""
    content = bucket.fill("gpt", [MIB, MIB, 5, 6, 7])
    pods.create_gated("one", bucket.uri("gpt"), spec=scrubbed.spec)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    served = stack.s3_proxy.bytes_served(bucket.name, "gpt")
    with shim.dying_disk():
        true(lambda: any("EIO" in event["error"] for event in _told(scrubbed)), "the scrub tells of the disk")
        pods.create_gated("two", bucket.uri("gpt"), spec=scrubbed.spec)
        message = says(pods, "two", "EIO")
        assert str(scrubbed.root) in message
        assert "drain the node" in message
        still_gated(pods, "two")
        assert not list((scrubbed.root / "quarantine").iterdir())
    released(stack, pods, "two", bucket.uri("gpt"), content)
    assert stack.s3_proxy.bytes_served(bucket.name, "gpt") == served


def _told(node: DiskNode) -> list[dict[str, Any]]:
    return node.events("the background scrub goes on later")


def test_a_clock_that_jumps_back_in_mid_download(
    stack: Stack, pods: Pods, bucket: Bucket, ill: DiskNode, shim: Shim
) -> None:
    """Nothing is lost, nothing is fetched twice, and what is in use stays so."""
    first = bucket.fill("first", [MIB])
    pods.create_gated("one", bucket.uri("first"), spec=ill.spec)
    released(stack, pods, "one", bucket.uri("first"), first)
    second = bucket.fill("second", [24 * MIB])
    with ExitStack() as jump:
        with stack.s3_proxy.limited(8 * MIB, at_most=20 * MIB):
            pods.create_gated("two", bucket.uri("second"), spec=ill.spec)
            true(lambda: stack.s3_proxy.bytes_served(bucket.name, "second") > 4 * MIB, "the download runs")
            jump.enter_context(shim.late_clock())
        released(stack, pods, "two", bucket.uri("second"), second)
        (event,) = (one for one in ill.events("snapshot is ready") if str(one["dataset"]).endswith("/second"))
        assert _says(event["timestamp"]) < time.time() - JUMP_S / 2, "the agent's clock was not off"
        assert stack.s3_proxy.bytes_served(bucket.name, "second") < 25 * MIB
        again = bucket.fill("third", [MIB])
        pods.create_gated("three", bucket.uri("third"), spec=ill.spec)
        released(stack, pods, "three", bucket.uri("third"), again)
    pinned = {row["uri"]: row["pinned_by"] for row in json.loads(ill.store("ls", "--json"))}
    assert all(pinned[bucket.uri(name)] for name in ("first", "second", "third"))
    ill.store("verify", digest_of(pods, "two"), "--full")
    uid = pods.get("two")["metadata"]["uid"]
    pods.delete("two")
    ill.unpinned(uid)


def _says(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
