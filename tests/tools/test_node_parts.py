"""Parts of the real node that need none: the relay, the name server, the archive of an image."""

from __future__ import annotations

import io
import json
import socket
import struct
import tarfile
from pathlib import Path

import pytest

from tools.node import images, machine
from tools.node.dns import NameServer
from tools.node.network import Relay, to_loopback


def test_a_relay_copies_both_ways_and_hands_on_the_end_of_a_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(socket.create_server(("127.0.0.1", 0)), to_loopback(server.getsockname()[1]))
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall(b"asked")
            client.shutdown(socket.SHUT_WR)
            peer, _ = server.accept()
            with peer, peer.makefile("rb") as asked:
                assert asked.read() == b"asked"
                peer.sendall(b"answered")
            with client.makefile("rb") as answered:
                assert answered.read() == b"answered"
        relay.close()


def test_a_relay_to_nobody_closes_the_connection() -> None:
    def nobody() -> socket.socket:
        raise ConnectionRefusedError

    relay = Relay(socket.create_server(("127.0.0.1", 0)), nobody)
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        assert client.recv(1) == b""
    relay.close()


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        pytest.param("temporal.temporal-dev.svc", 1, 0, 1, id="a service"),
        pytest.param("temporal.temporal-dev.svc.cluster.local", 1, 0, 1, id="in full"),
        pytest.param("agents.temporal-dev.svc", 1, 0, 2, id="a service without an address of its own"),
        pytest.param("temporal.temporal-dev.svc", 28, 0, 0, id="its IPv6 address, which it lacks"),
        pytest.param("temporal.temporal-dev.svc.other.svc.cluster.local", 1, 3, 0, id="with a search domain too many"),
        pytest.param("unknown.temporal-dev.svc", 1, 3, 0, id="no service"),
    ],
)
def test_the_name_server_knows_services(name: str, kind: int, code: int, answers: int) -> None:
    services = {"temporal": ["10.0.0.7"], "agents": ["10.0.0.6", "10.0.0.7"]}
    bound = socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    server = NameServer(bound, lambda namespace, service: services.get(service, ()))
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(
            struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1), bound.getsockname()
        )
        answer = client.recv(512)
    server.close()
    number, flags, _, count, *_ = struct.unpack_from("!6H", answer)
    assert (number, flags & 0xF, count) == (7, code, answers)
    if answers:
        assert answer.endswith(bytes([10, 0, 0, 7]))


def test_an_archive_names_its_image_as_containerd_does(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    image = images.Image("temporalio/temporal:1", ["/program"], files={"/program": program})
    with tarfile.open(image.write(tmp_path / "image.tar")) as archive:

        def document(name: str) -> dict[str, object]:
            file = archive.extractfile(name)
            assert file is not None
            return dict(json.loads(file.read()))

        (described,) = document("index.json")["manifests"]  # type: ignore[misc]
        assert described["annotations"]["io.containerd.image.name"] == "docker.io/temporalio/temporal:1"
        manifest = document(f"blobs/sha256/{described['digest'].partition(':')[2]}")
        (layer,) = manifest["layers"]  # type: ignore[misc]
        blob = archive.extractfile(f"blobs/sha256/{layer['digest'].partition(':')[2]}")
        assert blob is not None
        with tarfile.open(fileobj=io.BytesIO(blob.read())) as root:
            assert root.getmember("program").mode == 0o755


def test_a_machine_that_cannot_run_a_node_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    assert "make test-node` as root" in machine.missing()
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "which", lambda tool, path: None if tool == "runc" else tool)
    assert "apt-get install runc" in machine.missing()
