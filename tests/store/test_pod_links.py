"""What a Pod mounts is what its receipt names, for as long as it lives: its links, which are its pins."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import DiskFault, InsufficientDisk, InvalidRequest, SnapshotInUse, StalePlacement
from kube_cache.store import mounts
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store

A, B, C = (f"{digit * 8}-1111-4222-8333-{digit * 12}" for digit in "abc")
D1, D2 = "1" * 64, "2" * 64


@pytest.fixture
def gpt(source: Source) -> Manifest:
    return source.dataset("gpt", {"w": b"GOOD" * 100})


@pytest.fixture
def newer(source: Source, gpt: Manifest) -> Manifest:
    return source.dataset("gpt", {"w": b"NEW!" * 100})


def mount(store: NodeStore, uid: str, place: int = 0) -> Path:
    """What the kubelet mounts: sub-path `pods/<uid>/<n>` of the volume `snapshots`."""
    return store.root / "snapshots" / "pods" / uid / str(place)


def pins(store: NodeStore) -> set[tuple[str, str]]:
    return {(pin.digest, pin.owner.removeprefix("pod/")) for pin in store.pins()}


def age(store: NodeStore, uid: str) -> None:
    """As if the links had been made an hour ago: the reconcile leaves young ones alone."""
    os.utime(store.root / "pods" / uid, (0, time.time() - 3600))


# The way in.


def test_the_link_that_makes_a_missing_link_an_error_is_there_from_the_first_moment(store: NodeStore) -> None:
    assert os.readlink(store.root / "snapshots" / "pods") == "../pods"
    assert (store.root / "pods").stat().st_mode & 0o777 == 0o755
    assert store.snapshots() == []


@pytest.mark.parametrize("harm", ["gone", "empty directory", "what the kubelet makes", "another link"])
def test_what_stands_in_place_of_that_link_is_mended_before_a_pod_is_released(store: NodeStore, harm: str) -> None:
    path = store.root / "snapshots" / "pods"
    path.unlink()
    if harm == "another link":
        path.symlink_to("elsewhere")
    elif harm != "gone":
        (path / A / "0" if harm == "what the kubelet makes" else path).mkdir(parents=True)
    store.link_pod(B, 1, [D1])
    assert os.readlink(path) == "../pods"


def test_no_pod_is_released_while_that_link_cannot_be_made(store: NodeStore, engine: DictEngine, gpt: Manifest) -> None:
    store.download(gpt, engine)
    store.link_pod(A, 1, [gpt.digest])
    path = store.root / "snapshots" / "pods"
    path.unlink()
    path.mkdir()
    (path / "somebody's").write_text("file")
    with pytest.raises(DiskFault, match="move it away"):
        store.link_pod(B, 1, [gpt.digest])
    with pytest.raises(DiskFault, match="move it away"):
        store.check_for_pod(A, 0, gpt.digest, gpt.uri)
    assert (path / "somebody's").read_text() == "file"


def test_a_start_makes_that_link_and_removes_what_was_half_made(root: Path) -> None:
    open_store(root).close()
    (root / "snapshots" / "pods").unlink()
    for name in (f".new-{A}", f".old-{B}"):
        (root / "pods" / name).mkdir()
        (root / "pods" / name / "0").symlink_to("x")
    (root / "pods").chmod(0o700)
    open_store(root).close()
    assert os.readlink(root / "snapshots" / "pods") == "../pods"
    assert not list((root / "pods").iterdir())
    assert (root / "pods").stat().st_mode & 0o777 == 0o755


# Links.


def test_a_pod_mounts_each_of_its_datasets_under_its_place(
    store: NodeStore, engine: DictEngine, source: Source, gpt: Manifest
) -> None:
    other = source.dataset("gpt/sub", {"x": b"x"})
    store.link_pod(A, 1, [other.digest, gpt.digest])  # they may lead nowhere while the data is fetched
    assert not mount(store, A).exists()
    for manifest in (gpt, other):
        store.download(manifest, engine)
    assert (mount(store, A, 0) / "x").read_bytes() == b"x"
    assert (mount(store, A, 1) / "w").read_bytes() == b"GOOD" * 100
    assert store.check_for_pod(A, 0, other.digest, other.uri).verified == "full-object"


def test_linking_twice_links_once_and_a_new_placement_replaces_what_an_earlier_one_linked(store: NodeStore) -> None:
    store.link_pod(A, 5, [D1])
    before = os.lstat(mount(store, A))
    store.link_pod(A, 5, [D1])
    store.link_pod(A, 6, [D1])
    assert os.lstat(mount(store, A)).st_ino == before.st_ino, "an equal link is never away, not even for a moment"
    store.link_pod(A, 7, [D2, D1])
    assert pins(store) == {(D1, A), (D2, A)}
    with pytest.raises(StalePlacement) as stale:
        store.link_pod(A, 6, [D1])
    assert stale.value.details["placement"] == 7
    assert os.readlink(mount(store, A)).endswith(f"{D2}/data")


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", f"{A}/..", A.upper(), f"{A} ", ".new-" + A])
def test_nothing_but_a_uid_becomes_a_folder(store: NodeStore, uid: str) -> None:
    with pytest.raises(InvalidRequest):
        store.link_pod(uid, 1, [D1])
    with pytest.raises(InvalidRequest):
        store.link_pod(A, 1, [f"../{D1}"])
    assert not list((store.root / "pods").iterdir())


def test_a_snapshot_that_is_a_link_elsewhere_is_not_complete_for_a_pod(
    store: NodeStore, engine: DictEngine, gpt: Manifest, tmp_path: Path
) -> None:
    store.download(gpt, engine)
    store.link_pod(A, 1, [gpt.digest])
    snapshot = store.root / "snapshots" / gpt.digest
    snapshot.rename(tmp_path / "moved")
    snapshot.symlink_to(tmp_path / "moved")
    try:
        complete = store.check_for_pod(A, 0, gpt.digest, gpt.uri).complete
    except DiskFault:
        complete = False
    assert not complete


def test_what_a_pod_mounts_stays_when_a_newer_snapshot_is_published_and_under_the_pressure_of_others(
    root: Path, engine: DictEngine, source: Source
) -> None:
    store = open_store(root, capacity_bytes=100_000)
    old, new = (source.dataset("gpt", {"w": bytes([n]) * 40_000}) for n in (1, 2))
    for uid, manifest in ((A, old), (B, new)):
        store.link_pod(uid, 1, [manifest.digest])
        store.download(manifest, engine)
    with pytest.raises(InsufficientDisk, match=f"pinned by pod/{A}, pod/{B}"):
        store.download(source.dataset("more", {"m": b"m" * 50_000}), engine)
    with pytest.raises(SnapshotInUse, match=f"pod/{A}"):
        store.evict(old.digest)
    store.close()
    for path in root.glob("index.sqlite*"):
        path.unlink()  # a link is a pin without any record of it
    store = open_store(root, capacity_bytes=100_000)
    with pytest.raises(InsufficientDisk):
        store.download(source.dataset("more", {"m": b"m" * 50_000}), engine)
    assert (mount(store, A) / "w").read_bytes() == bytes([1]) * 40_000
    assert (mount(store, B) / "w").read_bytes() == bytes([2]) * 40_000
    store.close()


# The end of a pin.


def test_a_late_unpin_never_removes_the_links_of_a_newer_placement(store: NodeStore) -> None:
    store.link_pod(A, 5, [D1, D2])
    assert not store.unlink_pod(A, D1, 4)
    assert pins(store) == {(D1, A), (D2, A)}
    assert store.unlink_pod(A, D1, 5)
    assert pins(store) == {(D2, A)}
    assert not store.unlink_pod(A, D1, 5), "doing it twice is harmless"
    assert store.unlink_pod(A, D2), "0 is any placement"
    assert not list((store.root / "pods").iterdir())


def test_the_last_pod_to_end_lets_the_snapshot_go(store: NodeStore, engine: DictEngine, gpt: Manifest) -> None:
    for uid in (A, B):
        store.link_pod(uid, 1, [gpt.digest])
    store.download(gpt, engine)
    store.unlink_pod(A, gpt.digest, 1)
    with pytest.raises(SnapshotInUse, match=f"pod/{B}"):
        store.evict(gpt.digest)
    store.unlink_pod(B, gpt.digest, 1)
    assert store.evict(gpt.digest) == 400


def test_a_pin_that_another_process_made_a_moment_ago_is_seen(root: Path, engine: DictEngine, gpt: Manifest) -> None:
    agent, other = open_store(root), open_store(root)
    agent.download(gpt, engine)
    other.link_pod(A, 1, [D1])
    assert agent.pins()
    other.link_pod(A, 2, [gpt.digest])
    with pytest.raises(SnapshotInUse, match=A):
        agent.evict(gpt.digest)
    agent.close()
    other.close()


# The reconcile.


def test_reconcile_makes_lost_links_again_and_removes_those_of_pods_that_are_gone(store: NodeStore) -> None:
    for uid in (A, B):
        store.link_pod(uid, 1, [D1, D2])
        age(store, uid)
    mount(store, A, 1).unlink()
    done = store.reconcile({A: [D1, D2], C: [D2]}, [A, C])
    assert (done.pinned, done.unpinned, done.wrong_links) == (2, 2, [])
    assert pins(store) == {(D1, A), (D2, A), (D2, C)}
    assert os.readlink(mount(store, C)).endswith(f"{D2}/data")
    done = store.reconcile({A: [D1, D2], C: [D2]}, [A, C])
    assert (done.pinned, done.unpinned) == (0, 0), "the second time nothing changes"


def test_reconcile_leaves_gated_pods_and_young_links_alone(store: NodeStore) -> None:
    for uid in (A, B):
        store.link_pod(uid, 1, [D1])
    age(store, A)
    store.reconcile({}, [A])
    assert pins(store) == {(D1, A), (D1, B)}
    store.reconcile({}, [A], grace_s=0)
    assert pins(store) == {(D1, A)}


def test_reconcile_never_leads_the_link_of_a_released_pod_elsewhere(store: NodeStore) -> None:
    """Its container reads the new target at its next restart. Both are kept, and the Pod is named."""
    store.link_pod(A, 1, [D1])
    done = store.reconcile({A: [D2]}, [A])
    assert done.wrong_links == [A]
    assert os.readlink(mount(store, A)).endswith(f"{D1}/data")
    assert pins(store) == {(D1, A), (D2, A)}
    assert store.reconcile({A: [D2]}, [A]).pinned == 0
    store.reconcile({A: [D1]}, [A])
    assert pins(store) == {(D1, A)}


def test_a_receipt_that_somebody_edited_stops_nobody_elses_reconcile(store: NodeStore) -> None:
    done = store.reconcile({A: ["../../etc"], "no-uid": [D1], B: [D1]}, [A, B], bound={"x": [C], D2: ["no-uid", C]})
    assert done.pinned == 2
    assert pins(store) == {(D1, B), (D2, C)}


def test_an_operator_that_knows_no_receipts_keeps_its_pins_and_one_that_does_gives_them_places(
    store: NodeStore,
) -> None:
    assert store.reconcile({}, [A], bound={D1: [A], D2: [A]}).pinned == 2
    assert store.reconcile({}, [A], bound={D1: [A], D2: [A]}).pinned == 0
    assert pins(store) == {(D1, A), (D2, A)}
    store.reconcile({A: [D2, D1]}, [A])
    assert pins(store) == {(D1, A), (D2, A)}
    assert os.readlink(mount(store, A)).endswith(f"{D2}/data")


def test_pins_in_the_index_of_an_older_version_become_links_at_its_first_start(root: Path) -> None:
    open_store(root).close()
    with sqlite3.connect(root / "index.sqlite") as db:
        rows = [(D1, names.pin_owner(A)), (D2, names.pin_owner(A)), (D1, "user/me")]
        db.executemany("INSERT INTO pins VALUES (?, ?, 0, NULL)", rows)
    store = open_store(root)
    assert pins(store) == {(D1, A), (D2, A), (D1, "user/me")}
    assert {os.readlink(path) for path in (root / "pods" / A).glob("pin-*")} == {
        f"../../snapshots/{digest}/data" for digest in (D1, D2)
    }
    store.unlink_pod(A, D1)
    assert pins(store) == {(D2, A), (D1, "user/me")}
    store.close()


# Pods that mount `@current`.


def test_what_current_names_is_kept_while_a_pod_lives_that_mounts_it(
    store: NodeStore, engine: DictEngine, gpt: Manifest, newer: Manifest
) -> None:
    store.download(gpt, engine, resolved_at=1)
    store.link_pod(A, 1, [gpt.digest], [(0, gpt.uri)])
    store.download(newer, engine, resolved_at=2)
    for digest in (gpt.digest, newer.digest):
        with pytest.raises(SnapshotInUse, match=A):
            store.evict(digest)
    store.unlink_pod(A, gpt.digest, 1)
    for digest in (gpt.digest, newer.digest):
        assert store.evict(digest)


def test_a_dataset_at_the_top_of_a_bucket_is_kept_too(store: NodeStore, engine: DictEngine, source: Source) -> None:
    top = source.dataset("", {"x": b"x"})
    store.download(top, engine)
    store.link_pod(A, 1, [D1], [(0, DatasetUri("s3", "models", ""))])
    assert pins(store) == {(D1, A), (top.digest, A)}


# Mounts.


def test_a_subpath_mount_of_a_pod_without_links_is_a_leak_and_not_a_user(tmp_path: Path) -> None:
    line = "36 35 98:0 /cache/snapshots/{} {} rw - ext4 /dev/root rw\n"
    kubelet = "/var/lib/kubelet/pods/{}/volume-subpaths/cache/main/0"
    (tmp_path / "1" / "ns").mkdir(parents=True)
    (tmp_path / "1" / "ns" / "mnt").symlink_to("mnt:[1]")
    (tmp_path / "1" / "mountinfo").write_text(
        line.format(f"{D1}/data", kubelet.format(A)) + line.format(f"{D2}/data", kubelet.format(B))
    )
    assert mounts.mounted({A}, tmp_path) == {D1}
    (tmp_path / "1" / "mountinfo").write_text(line.format(f"{D1}/data", "/weights"))
    assert mounts.mounted(set(), tmp_path) == {D1}, "in the container's own mount namespace: it runs"


# Cost.


def test_fifty_thousand_pods_are_read_once_and_then_only_looked_at(store: NodeStore) -> None:
    """On a count of what is read, because times depend on the machine."""
    pods = store._opened.context.pods
    for number in range(200):
        uid = f"{number:08x}-1111-4222-8333-{number:012x}"
        store.link_pod(uid, 1, [D1])
        age(store, uid)
    assert len(store.pins()) == 200
    read = pods._read
    seen: list[str] = []
    pods._read = lambda uid, now: (seen.append(uid), read(uid, now))[1]  # type: ignore[method-assign]
    assert len(store.pins()) == 200
    assert seen == []
    store.link_pod(A, 1, [D1])
    store.pins()
    assert set(seen) == {A}
