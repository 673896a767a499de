"""The stack's S3: a real server with real grants, and the proxy that counts, slows, holds and refuses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tools.stack import s3
from tools.stack.buckets import Bucket
from tools.stack.s3 import S3Server
from tools.stack.s3_proxy import S3Proxy
from tools.stack.waiting import true

MIB = 1 << 20

# S3


@pytest.fixture
def granted(s3_server: S3Server, request: pytest.FixtureRequest) -> Bucket:
    """A bucket that is granted to the reader."""
    return Bucket(s3_server, f"b{abs(hash(request.node.name)):x}"[:20])


def test_the_reader_sees_granted_buckets_only(s3_server: S3Server, granted: Bucket) -> None:
    granted.put("a", b"granted")
    secret = Bucket(s3_server, "not-granted", readable=False)
    secret.put("a", b"secret")
    reader = s3.client(s3_server.endpoint, s3.READER)
    assert reader.get_object(Bucket=granted.name, Key="a")["Body"].read() == b"granted"
    for refused in (
        lambda: reader.get_object(Bucket=secret.name, Key="a"),
        lambda: reader.list_objects_v2(Bucket=secret.name),
        lambda: reader.put_object(Bucket=granted.name, Key="b", Body=b""),
        lambda: reader.delete_object(Bucket=granted.name, Key="a"),
    ):
        with pytest.raises(ClientError, match="Access Denied"):
            refused()
    s3_server.grant(secret.name)
    assert reader.get_object(Bucket=secret.name, Key="a")["Body"].read() == b"secret"
    s3_server.revoke(secret.name)
    with pytest.raises(ClientError, match="Access Denied"):
        reader.get_object(Bucket=secret.name, Key="a")


def test_objects_survive_a_stop_and_come_back_on_the_same_address(s3_server: S3Server, granted: Bucket) -> None:
    granted.put("a", b"still here")
    endpoint = s3_server.endpoint
    s3_server.stop()
    try:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", s3_server.port)) != 0
    finally:
        s3_server.start()
    assert s3_server.endpoint == endpoint
    assert s3.client(endpoint, s3.READER).get_object(Bucket=granted.name, Key="a")["Body"].read() == b"still here"


def test_a_paused_server_holds_its_connections_and_answers_later(s3_server: S3Server, granted: Bucket) -> None:
    granted.put("a", b"late")
    reader = s3.client(s3_server.endpoint, s3.READER)
    received: list[bytes] = []
    reading = threading.Thread(
        target=lambda: received.append(reader.get_object(Bucket=granted.name, Key="a")["Body"].read())
    )
    s3_server.pause()
    reading.start()
    reading.join(0.3)
    assert reading.is_alive()
    s3_server.repair()
    reading.join(60)
    assert received == [b"late"]


def test_a_damaged_object_keeps_its_old_checksum(s3_server: S3Server, granted: Bucket) -> None:
    granted.put("a", b"0" * 1000)
    before = s3_server.client().head_object(Bucket=granted.name, Key="a", ChecksumMode="ENABLED")
    s3_server.damage(granted.name, "a", 500)
    after = s3_server.client().head_object(Bucket=granted.name, Key="a", ChecksumMode="ENABLED")
    assert (after["ETag"], after["ChecksumCRC64NVME"]) == (before["ETag"], before["ChecksumCRC64NVME"])


# The counting proxy


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    proxy = S3Proxy(s3_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def data(granted: Bucket) -> bytes:
    return granted.fill("set", {"a": 8 * MIB + 13})["a"]


def test_the_proxy_passes_every_byte_and_counts_it(proxy: S3Proxy, granted: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    assert reader.list_objects_v2(Bucket=granted.name)["KeyCount"] == 1
    assert reader.head_object(Bucket=granted.name, Key="set/a")["ContentLength"] == len(data)
    assert proxy.bytes_served() == 0
    assert reader.get_object(Bucket=granted.name, Key="set/a")["Body"].read() == data
    part = reader.get_object(Bucket=granted.name, Key="set/a", Range="bytes=100-199")
    assert part["Body"].read() == data[100:200]
    with pytest.raises(ClientError, match="NoSuchKey"):
        reader.get_object(Bucket=granted.name, Key="set/missing")
    assert proxy.bytes_by_key(granted.name) == {"set/a": len(data) + 100}
    assert [exchange.range for exchange in proxy.exchanges(granted.name, "set/a")] == ["", "bytes=100-199"]
    assert proxy.bytes_served(granted.name, "other") == 0


def test_a_reader_that_hangs_up_is_counted_for_what_it_could_have_read(
    proxy: S3Proxy, granted: Bucket, data: bytes
) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with proxy.limited(4 * MIB):
        body = reader.get_object(Bucket=granted.name, Key="set/a")["Body"]
        body.read(MIB)
        body.close()
    # Bytes in the kernel's buffers count as served; the rest of the 8 MiB was not served.
    assert MIB <= proxy.bytes_served(granted.name) < len(data)


def test_nothing_flows_while_the_proxy_holds(proxy: S3Proxy, granted: Bucket, data: bytes) -> None:
    received: list[bytes] = []

    def fetch() -> None:
        received.append(
            s3.client(proxy.endpoint, s3.READER).get_object(Bucket=granted.name, Key="set/a")["Body"].read()
        )

    reading = threading.Thread(target=fetch)
    with proxy.held():
        reading.start()
        reading.join(0.5)
        assert reading.is_alive()
        assert proxy.bytes_served(granted.name) == 0
    reading.join(60)
    assert received == [data]


def test_only_so_many_gets_pass_and_the_others_when_the_block_ends(
    proxy: S3Proxy, granted: Bucket, data: bytes
) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with ThreadPoolExecutor(3) as readers:
        with proxy.only(gets=2):
            fetches = [readers.submit(_read, reader, granted) for _ in range(3)]
            true(lambda: sum(fetch.done() for fetch in fetches) == 2, "two have passed")
            assert reader.list_objects_v2(Bucket=granted.name)["KeyCount"] == 1, "lists pass"
            assert len(proxy.exchanges(granted.name)) == 2
        assert [fetch.result() for fetch in fetches] == [data] * 3


def test_no_more_bytes_than_allowed_pass_before_the_block_ends(proxy: S3Proxy, granted: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with ThreadPoolExecutor(2) as readers:
        with proxy.limited(1000 * MIB, at_most=3 * MIB + 5):
            fetches = [readers.submit(_read, reader, granted) for _ in range(2)]
            true(lambda: proxy.bytes_served(granted.name) == 3 * MIB + 5, "as many as allowed have passed")
            assert reader.list_objects_v2(Bucket=granted.name)["KeyCount"] == 1, "lists pass"
            assert proxy.bytes_served(granted.name) == 3 * MIB + 5
        assert [fetch.result() for fetch in fetches] == [data] * 2
    assert proxy.bytes_served(granted.name) == 2 * len(data)


def _read(reader: Any, bucket: Bucket) -> bytes:
    return bytes(reader.get_object(Bucket=bucket.name, Key="set/a")["Body"].read())


def test_the_proxy_keeps_a_rate(proxy: S3Proxy, granted: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    started = time.monotonic()
    with proxy.limited(16 * MIB):
        assert reader.get_object(Bucket=granted.name, Key="set/a")["Body"].read() == data
    assert time.monotonic() - started > 0.4


def test_the_proxy_refuses_on_demand(proxy: S3Proxy, granted: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with proxy.refusing(503), pytest.raises(ClientError, match="503"):
        reader.get_object(Bucket=granted.name, Key="set/a")
    assert reader.get_object(Bucket=granted.name, Key="set/a")["Body"].read() == data


def test_a_stopped_server_looks_down_through_the_proxy(
    proxy: S3Proxy, s3_server: S3Server, granted: Bucket, data: bytes
) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    s3_server.stop()
    try:
        # The reset comes in the middle of a request, or with the connection: a client of a server that is down sees
        # both.
        down = boto3.exceptions.botocore.exceptions
        with pytest.raises((down.HTTPClientError, down.EndpointConnectionError)):
            reader.get_object(Bucket=granted.name, Key="set/a")
    finally:
        s3_server.start()
    assert reader.get_object(Bucket=granted.name, Key="set/a")["Body"].read() == data
