"""An agent gets its certificate from the issuer, keeps its key, renews in time, and works without one meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kube_cache.errors import AccessDenied, InvalidRequest, SourceUnavailable
from kube_cache.http_server import HttpServer
from kube_cache.peers import authority as authority_module
from kube_cache.peers import enrolled_node
from kube_cache.peers.authority import LIFE_S
from kube_cache.peers.enrolled_node import EnrolledNode
from kube_cache.peers.enrolment import Enrolment, obtain
from kube_cache.peers.members import Place
from kube_cache.peers.node import PeerNode
from kube_cache.peers.settings import PeerSettings
from kube_cache.peers.tls import Certificates, Files, names
from kube_cache.peers.tokens import Mint
from tests.peers.conftest import SNAPSHOT, Cluster, eventually
from tests.peers.fleet import Fleet, running
from tests.peers.issuing import Certified, Issuing
from tests.peers.test_node import manifest
from tests.telemetry.scrape import Changes, value

ROOT = Path(__file__).parents[2]
ENDS = "kube_cache_peer_certificate_expiry_timestamp_seconds"


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_key_stays_with_the_agent(issuing: Issuing) -> None:
    with issuing.serving():
        settings = issuing.settings("node-1")
        assert obtain(settings).life_s == LIFE_S
    assert issuing.asked == ["token-of-node-1"]
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in settings.key_file.parent.iterdir()} == {"tls.crt", "tls.key", "token"}
    Certificates(Files(settings.ca_file, settings.certificate_file, settings.key_file))  # they belong to each other


@pytest.mark.slow
def test_nodes_feed_each_other_with_certificates_of_the_issuer(
    issuing: Issuing, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet: Fleet
    with issuing.serving(), running(cluster, tmp_path, monkeypatch) as fleet:
        first = fleet.add("n1", files=_files(issuing, "n1"), settle_s=0)
        second = fleet.add("n2", files=_files(issuing, "n2"), settle_s=60)
        first.start()
        first.wait()
        second.start()
        second.wait()
        assert second.took["n1"] > 0


def _files(issuing: Issuing, name: str) -> Files:
    """Get a certificate, under the name by which `Fleet` knows whose it is."""
    settings = issuing.settings(name)
    settings = replace(settings, certificate_file=settings.certificate_file.with_name(f"node-{name}.crt"))
    obtain(settings)
    return Files(settings.ca_file, settings.certificate_file, settings.key_file)


def test_a_refusal_and_its_reason_come_through(issuing: Issuing) -> None:
    settings = issuing.settings("node-1")
    settings.issuer_token_file.write_text("stolen")
    with issuing.serving() as address, pytest.raises(AccessDenied, match="none of an agent"):
        obtain(replace(settings, issuer=address))
    assert not settings.key_file.exists()


def test_nobody_but_the_issuer_is_shown_the_token(issuing: Issuing) -> None:
    """A node has a certificate of the same authority, for a server too."""
    with issuing.serving():
        node = issuing.settings("node-1")
        obtain(node)
    shown: list[bytes] = []
    contexts = Certificates(Files(node.ca_file, node.certificate_file, node.key_file)).get()
    contexts.server.verify_mode = 0  # type: ignore[assignment]

    def serve(raw: object, *_: object) -> None:
        try:
            with contexts.server.wrap_socket(raw, server_side=True) as secured:  # type: ignore[arg-type]
                shown.append(secured.recv(1))
        except OSError:
            pass

    server = HttpServer("127.0.0.1:0", serve, what="a test", setting="", max_connections=2)
    try:
        asked = replace(issuing.settings("node-2"), issuer=f"127.0.0.1:{server.port}")
        with pytest.raises(SourceUnavailable, match="does not answer as kube-cache-issuer"):
            obtain(asked)
    finally:
        server.close()
    assert shown in ([], [b""])


def test_an_issuer_of_another_authority_is_not_believed(issuing: Issuing, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Issuing(tmp_path / "other")
    with other.serving() as address, pytest.raises(SourceUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        obtain(replace(issuing.settings("node-1"), issuer=address))
    assert other.asked == []


def test_a_token_that_is_not_mounted_is_told_with_its_audience(issuing: Issuing) -> None:
    settings = issuing.settings("node-1")
    settings.issuer_token_file.unlink()
    with pytest.raises(InvalidRequest, match="kube-cache-peers"):
        obtain(settings)


@pytest.mark.slow
def test_a_certificate_is_renewed_with_another_key_before_it_ends(
    issuing: Issuing, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority_module, "LIFE_S", 3)
    closing.enter_context(issuing.serving())
    settings, certified = issuing.settings("node-1"), Certified()
    keys = set()

    def note(place: Place) -> None:
        keys.add(settings.key_file.read_bytes())
        certified(place)

    closing.callback(Enrolment(settings, note, look_s=0.05).close)
    eventually(lambda: certified.count >= 3)
    assert len(keys) >= 3


def test_another_authority_is_answered_by_another_certificate_at_once(issuing: Issuing, closing: ExitStack) -> None:
    closing.enter_context(issuing.serving())
    certified = Certified()
    closing.callback(Enrolment(issuing.settings("node-1"), certified, look_s=0.05).close)
    eventually(lambda: certified.count == 1)
    issuing.renew_authority()
    eventually(lambda: certified.count == 2)


def test_an_agent_without_an_issuer_works_alone_and_takes_part_once_there_is_one(
    issuing: Issuing, closing: ExitStack
) -> None:
    with issuing.serving():
        pass  # to have an address at which nobody answers
    settings = issuing.settings("node-1")
    begun = threading.Event()

    def begin(told: PeerSettings) -> PeerNode:
        node = PeerNode("node-1", told, lambda remote: remote.key)
        begun.set()
        return node

    changes = Changes()
    enrolled = EnrolledNode(settings, begin)
    closing.callback(enrolled.close)
    eventually(lambda: changes.of("kube_cache_peer_certificate_failures_total") > 0)
    assert value(ENDS, of="node") == 0, "it has none"
    token = Mint(issuing.key.read_bytes()).token(SNAPSHOT, "node-1", 4e9)
    with enrolled.join(manifest(SNAPSHOT), token, expects_others=False) as exchange:
        assert exchange is None
    closing.enter_context(issuing.serving())
    assert begun.wait(90)
    eventually(lambda: enrolled.node is not None)
    eventually(lambda: (value(ENDS, of="node") or 0) > time.time() + LIFE_S / 2)
    with enrolled.join(manifest(SNAPSHOT), token, expects_others=False) as exchange:
        assert exchange is not None


def test_a_download_at_the_start_takes_part_though_the_certificate_is_on_its_way(
    issuing: Issuing, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is good for the ranges of a swarm alone."""
    monkeypatch.setattr(enrolled_node, "_PATIENCE_S", 90.0)
    joining = threading.Event()

    def node_of(_: str) -> str:
        assert joining.wait(90)
        return "node-1"

    closing.enter_context(issuing.serving(node_of))
    enrolled = EnrolledNode(
        issuing.settings("node-1"), lambda told: PeerNode("node-1", told, lambda remote: remote.key)
    )
    closing.callback(enrolled.close)
    token = Mint(issuing.key.read_bytes()).token(SNAPSHOT, "node-1", 4e9)
    assert enrolled.node is None
    threading.Timer(0.2, joining.set).start()
    with enrolled.join(manifest(SNAPSHOT), token, expects_others=False) as exchange:
        assert exchange is not None


def test_a_node_shows_its_new_certificate_to_the_next_who_comes(issuing: Issuing, closing: ExitStack) -> None:
    """The server of a node that was begun with one certificate goes on with the next one."""
    closing.enter_context(issuing.serving())
    settings = issuing.settings("node-1")
    enrolled = EnrolledNode(settings, lambda told: PeerNode("node-1", told, lambda remote: remote.key))
    closing.callback(enrolled.close)
    eventually(lambda: enrolled.node is not None)
    assert enrolled.node is not None
    other = issuing.settings("node-2")
    obtain(other)
    client = Certificates(Files(other.ca_file, other.certificate_file, other.key_file)).get().client
    shown: set[bytes | None] = set()

    def look() -> int:
        assert enrolled.node is not None
        with socket.create_connection(("127.0.0.1", enrolled.node.server.port), 90) as raw:
            with client.wrap_socket(raw) as secured:
                assert names(secured) == {"node-1"}
                shown.add(secured.getpeercert(binary_form=True))
        return len(shown)

    assert look() == 1
    obtain(settings)
    eventually(lambda: look() == 2)


def test_a_node_is_where_its_certificate_came_with(issuing: Issuing, closing: ExitStack) -> None:
    """Its own setting counts more, and another label counts with the next certificate."""
    issuing.places["node-1"] = Place("zone-a", "rack-1")
    closing.enter_context(issuing.serving())

    def begun(settings: PeerSettings) -> EnrolledNode:
        enrolled = EnrolledNode(settings, lambda told: PeerNode("node-1", told, lambda remote: remote.key), look_s=0.05)
        closing.callback(enrolled.close)
        eventually(lambda: enrolled.node is not None)
        return enrolled

    labelled, set_by_hand = begun(issuing.settings("node-1")), begun(replace(issuing.settings("node-1"), zone="zone-z"))

    def places() -> list[Place]:
        return [Place(each.node.me.zone, each.node.me.rack) for each in (labelled, set_by_hand) if each.node]

    assert places() == [Place("zone-a", "rack-1"), Place("zone-z", "rack-1")]
    issuing.places["node-1"] = Place("zone-a", "rack-2")
    issuing.renew_authority()
    eventually(lambda: places() == [Place("zone-a", "rack-2"), Place("zone-z", "rack-2")])


def test_an_agent_ends_while_the_issuer_does_not_answer(issuing: Issuing, closing: ExitStack) -> None:
    asked, answering = threading.Event(), threading.Event()

    def node_of(_: str) -> str:
        asked.set()
        answering.wait(90)
        return "node-1"

    closing.enter_context(issuing.serving(node_of))
    closing.callback(answering.set)
    enrolled = EnrolledNode(issuing.settings("node-1"), lambda _: pytest.fail("is begun after its end"))
    assert asked.wait(90)
    enrolled.close()
    assert not answering.is_set()
    thread = enrolled._enrolment._thread
    assert thread.is_alive()
    answering.set()
    thread.join(90)
    assert enrolled.node is None


def test_a_setting_that_no_certificate_mends_ends_the_start(issuing: Issuing) -> None:
    settings = replace(issuing.settings("node-1"), advertise="")
    with pytest.raises(InvalidRequest, match="ADVERTISE"):
        EnrolledNode(settings, lambda _: pytest.fail("is not begun"))


@pytest.mark.slow
def test_nothing_of_it_is_loaded_where_it_is_not_wanted() -> None:
    program = (
        "import sys, cli.agent, cli.operator\n"
        "names = ('issuer', 'authority', 'enrolment', 'enrolled_node', '_x509')\n"
        "print([n for n in names if f'kube_cache.peers.{n}' in sys.modules], 'kube_cache.kube.token_reviews' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] False"
