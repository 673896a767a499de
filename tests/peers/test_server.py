"""The server of a node: which bytes it gives over real TLS, what it waits for, and what ends a connection."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress

import pytest

from kube_cache.peers.server import CONNECTIONS_PER_TRANSFER
from tests.peers.conftest import NODE, OBJECT, SNAPSHOT, Cluster, Connect, Served, Serving, eventually, message

DATA = random.Random(1).randbytes(1_000_003)
LARGE = DATA * 32
"""More than the buffers of two sockets hold, so that a server cannot be done before its reader."""
OTHER = "c3" * 32


@pytest.mark.parametrize(
    ("range_", "first", "last"),
    [
        pytest.param("bytes=0-0", 0, 0, id="one byte"),
        pytest.param("bytes=4095-600000", 4095, 600_000, id="several pieces, unaligned"),
        pytest.param("bytes=999000-", 999_000, len(DATA) - 1, id="to the end"),
        pytest.param(f"bytes=0-{len(DATA) - 1}", 0, len(DATA) - 1, id="all"),
    ],
)
def test_a_node_with_a_token_gets_the_bytes(
    serving: Serving, connect: Connect, cluster: Cluster, range_: str, first: int, last: int
) -> None:
    served = serving()
    served.hold(DATA)
    answer = connect(served).get(cluster.token(), range_)
    assert answer.status == 206
    assert answer.body == DATA[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(DATA)}"


def test_a_connection_serves_one_request_after_the_other(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    served.hold(DATA)
    client = connect(served)
    for first in (0, 70_000, 7):
        assert client.get(cluster.token(), f"bytes={first}-{first + 9}").body == DATA[first : first + 10]
    assert client.get(cluster.token(), "bytes=2000000-2000001").status == 416
    assert client.get(cluster.token()).body == DATA[:10]


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/{SNAPSHOT}/../../etc/passwd",
        f"/v1/{SNAPSHOT}/%2e%2e/{OBJECT}",
        f"/v1/{SNAPSHOT}/{OBJECT}/",
        f"/v1/{SNAPSHOT}/{OBJECT.upper()}",
        f"//v1/{SNAPSHOT}/{OBJECT}",
        "/",
        "/etc/passwd",
        f"http://x/v1/{SNAPSHOT}/{OBJECT}",
        f"/v1/{SNAPSHOT}/{OBJECT}?x",
    ],
)
def test_only_objects_have_paths(serving: Serving, connect: Connect, cluster: Cluster, path: str) -> None:
    served = serving()
    served.hold(DATA)
    assert connect(served).get(cluster.token(), path=path).status == 404


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param("PUT /v1/{path} HTTP/1.1\r\n\r\n", id="PUT"),
        pytest.param("DELETE /v1/{path} HTTP/1.1\r\n\r\n", id="DELETE"),
        pytest.param("GET /v1/{path} HTTP/1.0\r\n\r\n", id="HTTP 1.0"),
        pytest.param("GET  /v1/{path} HTTP/1.1\r\n\r\n", id="two spaces"),
        pytest.param("GET /v1/{path} HTTP/1.1\r\nRange : bytes=0-1\r\n\r\n", id="space before the colon"),
        pytest.param("GET /v1/{path} HTTP/1.1\r\nRange: bytes=0-1\r\nRange: bytes=4-5\r\n\r\n", id="two Ranges"),
        pytest.param("GET /v1/{path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked"),
        pytest.param("GET /v1/{path} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", id="a body"),
        pytest.param("GET /v1/{path} HTTP/1.1\r\nx: " + "y" * 5000 + "\r\n\r\n", id="a long head"),
        pytest.param("POST /v1/{path} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", id="POST of an object"),
        pytest.param("\x16\x03\x01\r\n\r\n", id="not HTTP"),
    ],
)
def test_what_is_not_understood_ends_the_connection(
    serving: Serving, connect: Connect, cluster: Cluster, request_: str
) -> None:
    served = serving()
    served.hold(DATA)
    client = connect(served)
    answer = client.ask(request_.replace("{path}", f"{SNAPSHOT}/{OBJECT}").encode("latin-1"))
    assert 400 <= answer.status <= 505
    assert answer.headers["connection"] == "close"
    assert client.is_closed()


@pytest.mark.parametrize("range_", ["bytes=0-1,4-5", "bytes=-5", "bytes=5-2", "bytes=a-b", "items=0-1", ""])
def test_a_request_has_exactly_one_range(serving: Serving, connect: Connect, cluster: Cluster, range_: str) -> None:
    served = serving()
    served.hold(DATA)
    assert connect(served).get(cluster.token(), range_).status == 400


@pytest.mark.parametrize(
    ("range_", "status"),
    [
        pytest.param("bytes=0-99", 206, id="within"),
        pytest.param("bytes=0-100", 409, id="one byte beyond"),
        pytest.param("bytes=5000-5001", 409, id="elsewhere"),
        pytest.param("bytes=50-", 409, id="to the end"),
        pytest.param(f"bytes=0-{len(DATA)}", 416, id="beyond the end"),
        pytest.param(f"bytes={len(DATA)}-", 416, id="from the end"),
    ],
)
def test_only_verified_bytes_are_given(
    serving: Serving, connect: Connect, cluster: Cluster, range_: str, status: int
) -> None:
    served = serving()
    served.hold(DATA, verified=100)
    assert connect(served).get(cluster.token(), range_).status == status


def test_bytes_that_turned_out_wrong_are_given_no_more(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    served.hold(DATA)
    client = connect(served)
    served.holdings.withdraw(OBJECT, [(100, 100)])
    assert client.get(cluster.token(), "bytes=0-99").status == 206
    assert client.get(cluster.token(), "bytes=199-200").status == 409
    assert client.get(cluster.token(), "bytes=200-300").status == 206


def test_an_object_of_another_snapshot_is_not_there(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    """A token for one snapshot opens no object of another, though both are on the disk."""
    served = serving()
    path = served.hold(DATA)
    served.holdings.add("e5" * 32, OTHER, path, len(DATA))
    served.holdings.verified(OTHER, [(0, len(DATA))])
    assert connect(served).get(cluster.token(), path=f"/v1/{SNAPSHOT}/{OTHER}").status == 404


def test_a_request_waits_for_bytes_on_their_way(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving(hold_s=600.0)
    served.hold(DATA, verified=0)
    waited_for: list[tuple[str, str, int]] = []
    waits = threading.Event()

    def note(snapshot: str, id_: str, first: int) -> None:
        waited_for.append((snapshot, id_, first))
        waits.set()

    served.holdings.waited_for = note
    client = connect(served)
    client.begin(cluster.token(), "bytes=50-99")
    assert waits.wait(90)
    served.holdings.verified(OBJECT, [(0, 60)])
    served.holdings.verified(OBJECT, [(60, 40)])
    answer = client.answer()
    assert (answer.status, answer.body) == (206, DATA[50:100])
    assert waited_for == [(SNAPSHOT, OBJECT, 50)]


def test_an_object_that_is_evicted_while_it_is_served_is_served_to_its_end(
    serving: Serving, connect: Connect, cluster: Cluster
) -> None:
    served = serving()
    path = served.hold(LARGE)
    client = connect(served)
    client.begin(cluster.token())
    first = client.socket.recv(1)  # so the file is open
    path.unlink()
    assert client.answer(first).body == LARGE
    assert client.get(cluster.token()).status == 404


def test_a_file_that_is_cut_ends_the_connection_in_the_middle(
    serving: Serving, connect: Connect, cluster: Cluster
) -> None:
    served = serving()
    os.truncate(served.hold(DATA), 500_000)
    with pytest.raises(OSError):
        connect(served).get(cluster.token(), "bytes=0-")


def test_a_node_that_comes_when_all_places_are_taken_is_sent_elsewhere(
    serving: Serving, connect: Connect, cluster: Cluster
) -> None:
    served = serving(max_transfers=1)
    served.hold(LARGE)
    slow, other = connect(served), connect(served)
    slow.begin(cluster.token())
    assert slow.socket.recv(1) == b"H"
    answer = other.get(cluster.token())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert other.ask(message(cluster.token(), b"hello")).status == 200, "messages pass"
    slow.socket.close()
    eventually(lambda: other.get(cluster.token()).status == 206)


def test_a_connection_beyond_the_last_place_is_closed(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving(max_transfers=1)
    clients = [connect(served) for _ in range(CONNECTIONS_PER_TRANSFER)]
    for client in clients:
        assert client.get(cluster.token()).status == 404  # each has its thread
    assert not can_connect(connect, served)
    clients[0].socket.close()
    eventually(lambda: can_connect(connect, served))


def test_a_reader_that_takes_nothing_does_not_keep_its_thread(
    serving: Serving, connect: Connect, cluster: Cluster
) -> None:
    served = serving(patience_s=0.2)
    served.hold(LARGE)
    with suppress(OSError):  # a test that is slow to ask has lost its connection as well
        connect(served).begin(cluster.token())
    eventually(lambda: served.server.connections == 0)


@pytest.mark.parametrize("sent", [b"", b"GET /v1/"], ids=["nothing", "half a request"])
def test_a_request_that_does_not_come_whole_does_not_keep_a_thread(
    serving: Serving, connect: Connect, sent: bytes
) -> None:
    served = serving(patience_s=0.2)
    client = connect(served)
    with suppress(OSError):
        client.socket.sendall(sent)
    assert client.is_closed()
    eventually(lambda: served.server.connections == 0)


def test_the_rate_limit_holds_over_all_connections(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    """The last of 100 KB at 100 KB/s leaves after 0.8 s; how much later is the machine's matter."""
    served = serving(max_bytes_per_s=100_000)
    served.hold(DATA)
    clients = [connect(served), connect(served)]
    start = time.monotonic()
    threads = [threading.Thread(target=client.get, args=(cluster.token(), "bytes=0-49999")) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start > 0.7


def test_a_message_is_taken_and_answered(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    client = connect(served)
    for body in (b"first", b"x" * 100_000):
        answer = client.ask(message(cluster.token(), body))
        assert (answer.status, answer.body) == (200, b"mine")
    assert client.ask(message(cluster.token(node="node-2.example"), b"not mine")).status == 403
    assert client.ask(message(cluster.token(), b"x" * 300_000)[:-300_000]).status == 413
    assert served.inbox.received == [(NODE, b"first"), (NODE, b"x" * 100_000)]


def test_a_server_that_closes_ends_its_connections(serving: Serving, connect: Connect, cluster: Cluster) -> None:
    served = serving()
    served.hold(LARGE)
    idle, busy = connect(served), connect(served)
    assert idle.get(cluster.token()).status == 206
    busy.begin(cluster.token())
    assert busy.socket.recv(1) == b"H"
    served.server.close()
    eventually(lambda: served.server.connections == 0)
    assert idle.is_closed()


def can_connect(connect: Connect, served: Served) -> bool:
    """Tell whether a new connection gets a thread; TLS fails where there is none."""
    try:
        connect(served)
    except OSError:
        return False
    return True
