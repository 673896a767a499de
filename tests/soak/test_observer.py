"""The observer of the soak would notice: each way to release a Pod cold is staged, by hand, and told by its kind.

The API server is played, so that a moment is enough: Pods, and the lines of its audit log. That the real log is
understood shows in each soak, which counts the releases that were judged.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kube_cache import names
from tests.soak.observer import Observer
from tools.stack.pods import gated
from tools.stack.waiting import true

URI, NODE, DIGEST, OTHER = "s3://models/gpt", "gpu-1", "a" * 64, "b" * 64
GOOD, BAD = b"as uploaded", b"as never uploaded"


class ApiServer:
    """Pods by name, and the audit log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.pods: dict[str, Any] = {}
        log.touch()

    def get(self, path: str, **_: str) -> Any:
        return {"items": list(self.pods.values())}

    def find(self, path: str) -> Any:
        return self.pods.get(path.rpartition("/")[2])

    def write(self, verb: str, name: str, body: Any, at: datetime | None = None) -> None:
        """Write the line of a request that was carried out. at: when the server had it; None = now."""
        event = {
            "verb": verb,
            "user": {"username": "somebody"},
            "objectRef": {"namespace": "ml", "name": name},
            "responseStatus": {"code": 200},
            "requestObject": body,
            "requestReceivedTimestamp": (at or datetime.now(UTC)).isoformat(),
        }
        with self.log.open("a") as log:
            log.write(json.dumps(event) + "\n")


class Staged:
    """A node's disk and Pods, of which everything is done by hand."""

    def __init__(self, root: Path) -> None:
        self.api = ApiServer(root / "audit.log")
        self._root = root
        hashes = {"shard": {hashlib.sha256(GOOD).hexdigest()}}
        api: Any = self.api
        self.observer = Observer(api, self.api.log, {NODE: root}, lambda uri: hashes if uri == URI else {})
        (root / "pods").mkdir()
        (root / "snapshots").mkdir()
        (root / "snapshots" / "pods").symlink_to("../pods")

    def publish(self, data: bytes = GOOD) -> None:
        """Make the snapshot visible by one rename, as the store does."""
        aside = self._root / "snapshots" / f".building-{DIGEST}"
        (aside / "data").mkdir(parents=True)
        (aside / "data" / "shard").write_bytes(data)
        aside.rename(self._root / "snapshots" / DIGEST)

    def link(self, uid: str, digest: str = DIGEST) -> None:
        folder = self._root / "pods" / uid
        folder.mkdir(exist_ok=True)
        (folder / "0").unlink(missing_ok=True)
        (folder / "0").symlink_to(f"../../snapshots/{digest}/data")

    def gated(self, **options: Any) -> tuple[str, str]:
        """Create a Pod; its name and uid."""
        name, uid = f"pod-{uuid.uuid4().hex[:6]}", str(uuid.uuid4())
        pod = gated(name, URI, gpus=0, **options)
        self.api.write("create", name, pod)
        pod["metadata"] |= {"namespace": "ml", "uid": uid}
        self.api.pods[name] = pod
        return name, uid

    def release(self, name: str, node: str = NODE, digest: str = DIGEST, bound_to: str = "") -> None:
        """Remove the gate with a receipt, true or not."""
        receipt = {names.NODE_ANNOTATION: node, names.SNAPSHOT_ANNOTATION: digest} if node else {}
        self.record_release(name, receipt)
        self.show_released(name, receipt, bound_to or node)

    def record_release(self, name: str, receipt: dict[str, str], at: datetime | None = None) -> None:
        gates = [{"$patch": "delete", "name": names.GATE}]
        self.api.write("patch", name, {"metadata": {"annotations": receipt}, "spec": {"schedulingGates": gates}}, at)

    def show_released(self, name: str, receipt: dict[str, str], node: str) -> None:
        pod = self.api.pods[name]
        metadata = {**pod["metadata"], "annotations": {**pod["metadata"]["annotations"], **receipt}}
        spec = {**pod["spec"], "schedulingGates": [], "nodeName": node}
        self.api.pods[name] = {**pod, "metadata": metadata, "spec": spec}

    def delete(self, name: str) -> None:
        self.api.write("delete", name, {})
        del self.api.pods[name]

    def released_warm(self) -> str:
        """Release a Pod as it should be; its uid. What is staged after that would be seen."""
        self.publish()
        name, uid = self.gated()
        self.link(uid)
        self.release(name)
        self.judged(1)
        assert not self.observer.verdicts
        return uid

    def judged(self, count: int) -> None:
        true(lambda: self.observer.counts["judged"] >= count, f"{count} releases are judged", 20)

    def tells(self, kind: str) -> None:
        true(lambda: kind in {each.kind for each in self.observer.verdicts}, f"the observer tells {kind!r}", 20)
        assert self.observer.cold == 1


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[Staged]:
    made = Staged(tmp_path)
    made.observer.start()
    yield made
    made.observer.stop()


def test_a_release_onto_data_that_is_there_is_no_cold_one(staged: Staged) -> None:
    uid = staged.released_warm()
    # A second snapshot of the same content, as after an eviction, changes nothing for the Pod.
    staged.link(uid)
    staged.observer.wait_listed()
    staged.observer.wait_listed()
    assert not staged.observer.verdicts
    assert not staged.observer.cold


def test_a_release_onto_an_empty_disk_is_noticed(staged: Staged) -> None:
    name, uid = staged.gated()
    staged.link(uid)
    staged.release(name)
    staged.tells("data was not there")


def test_data_that_comes_a_moment_after_the_release_is_too_late(staged: Staged) -> None:
    name, uid = staged.gated()
    staged.link(uid)
    staged.release(name)
    staged.publish()
    staged.tells("data was not there")


def test_a_receipt_that_names_another_snapshot_is_noticed(staged: Staged) -> None:
    staged.publish()
    name, uid = staged.gated()
    staged.link(uid)
    staged.release(name, digest=OTHER)
    staged.tells("data was not there")


def test_a_snapshot_of_other_bytes_is_noticed(staged: Staged) -> None:
    staged.publish(BAD)
    name, uid = staged.gated()
    staged.link(uid)
    staged.release(name)
    staged.tells("wrong content")


def test_a_pod_that_is_released_twice_is_noticed(staged: Staged) -> None:
    staged.released_warm()
    (name,) = staged.api.pods
    staged.release(name)
    staged.tells("released twice")


def test_a_list_that_is_quicker_than_the_record_shows_the_same_release(staged: Staged) -> None:
    staged.publish()
    name, uid = staged.gated()
    staged.link(uid)
    receipt = {names.NODE_ANNOTATION: NODE, names.SNAPSHOT_ANNOTATION: DIGEST}
    at = datetime.now(UTC)
    staged.show_released(name, receipt, NODE)
    staged.judged(1)
    staged.record_release(name, receipt, at)
    staged.observer.wait_listed()
    staged.observer.wait_listed()
    assert not staged.observer.verdicts
    staged.record_release(name, receipt)
    staged.tells("released twice")


def test_a_release_without_a_receipt_is_noticed_unless_its_owner_asked_for_it(staged: Staged) -> None:
    wished, _ = staged.gated(annotations={names.ON_TIMEOUT_ANNOTATION: "release", names.MAX_GATE_TIME_ANNOTATION: "1s"})
    staged.release(wished, node="")
    true(lambda: staged.observer.counts["by wish"] == 1, "the wish is counted", 20)
    assert not staged.observer.verdicts
    name, _ = staged.gated()
    staged.release(name, node="")
    staged.tells("no receipt")


def test_a_link_that_leads_elsewhere_is_noticed_while_the_pod_lives(staged: Staged) -> None:
    uid = staged.released_warm()
    staged.link(uid, OTHER)
    staged.tells("wrong link")


def test_data_that_vanishes_under_a_living_pod_is_noticed(staged: Staged) -> None:
    staged.released_warm()
    (staged._root / "snapshots" / DIGEST).rename(staged._root / "snapshots" / f".removing-{DIGEST}")
    staged.tells("data is gone")


def test_a_pod_that_is_bound_elsewhere_is_noticed(staged: Staged) -> None:
    staged.publish()
    name, uid = staged.gated()
    staged.link(uid)
    staged.release(name, bound_to="gpu-2")
    staged.tells("bound elsewhere")


def test_an_observer_that_dies_fails_the_soak(staged: Staged) -> None:
    staged.observer._judge = None  # type: ignore[method-assign, assignment]
    true(lambda: staged.observer.failure, "the observer has died", 20)
    with pytest.raises(RuntimeError, match="has proved nothing"):
        staged.observer.stop()
    staged.observer.failure = None


def test_the_soak_is_over_for_a_pod_that_is_deleted(staged: Staged) -> None:
    """What an end frees is not what a release lacked."""
    uid = staged.released_warm()
    name = next(name for (_, name), pod in staged.observer.pods.items() if pod["metadata"]["uid"] == uid)
    staged.delete(name)
    (staged._root / "snapshots" / DIGEST).rename(staged._root / "snapshots" / f".removing-{DIGEST}")
    asked = time.time()
    true(lambda: staged.observer.listed_at > asked, "the observer has listed once more", 20)
    staged.observer.wait_listed()
    assert not staged.observer.verdicts
