"""A dying disk and a bad object are told apart: the first condemns nothing, the second is condemned alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import DiskFault
from kube_cache.store import health, scrub
from kube_cache.store.disk import Disk
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, wait_for

FILES = {f"f{number}": bytes([number]) * 1000 for number in range(20)}
Answer = Callable[[str, int], int]
"""(name of the file, number of reads of that file before) -> errno; 0: the bytes are read."""


@pytest.fixture
def manifest(store: NodeStore, source: Source, engine: DictEngine) -> Manifest:
    manifest = source.dataset("gpt", FILES)
    store.download(manifest, engine)
    return manifest


@pytest.fixture
def disk_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Let reads of objects fail as the function says."""
    real = scrub.crc_of
    reads: dict[str, int] = {}

    def install(answer: Answer) -> None:
        def crc_of(disk: Disk, path: PurePosixPath, *rest: object, **named: object) -> int:
            before = reads.get(path.name, 0)
            reads[path.name] = before + 1
            if code := answer(path.name, before):
                raise OSError(code, os.strerror(code), f"{disk.root.path}/{path}")
            return real(disk, path, *rest, **named)

        monkeypatch.setattr(scrub, "crc_of", crc_of)

    return install


def quarantined(store: NodeStore) -> int:
    return len(list((store.root / "quarantine").iterdir()))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODEV, errno.ETIMEDOUT, errno.ESTALE, errno.ENXIO, errno.ENODATA])
def test_a_disk_that_answers_for_nothing_condemns_nothing(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None], code: int
) -> None:
    disk_answers(lambda _name, _before: code)
    with pytest.raises(DiskFault, match=errno.errorcode[code]):
        store.scrub(0)
    assert quarantined(store) == 0
    assert store.check(manifest.digest).complete


def test_a_disk_that_fails_in_the_middle_of_a_round_condemns_nothing(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None]
) -> None:
    disk_answers(lambda name, _before: errno.EIO if name >= "f15" else 0)
    with pytest.raises(DiskFault, match=r"EIO.*drain the node"):
        store.scrub(0)
    assert quarantined(store) == 0


@pytest.mark.parametrize("place", ["f0", "f10", "f9"], ids=["first", "in-the-middle", "last"])
def test_one_place_that_cannot_be_read_condemns_its_object_alone_and_is_fetched_again(
    store: NodeStore, manifest: Manifest, engine: DictEngine, disk_answers: Callable[[Answer], None], place: str
) -> None:
    """Of the names, f9 is the last one that is read."""
    disk_answers(lambda name, _before: errno.EIO if name == place else 0)
    bad = []
    result = store.scrub(0, on_bad=bad.append)
    assert [(object_.path, object_.reason) for object_ in bad] == [(place, "cannot be read (Input/output error)")]
    assert (result.bad, result.objects) == (1, len(FILES))
    assert quarantined(store) == 1
    assert store.disk_fault() == ""
    disk_answers(lambda _name, _before: 0)
    assert store.download(manifest, engine).fetched_bytes == 1000


def test_the_only_object_of_a_disk_is_condemned_if_its_manifest_can_be_read(
    store: NodeStore, source: Source, engine: DictEngine, disk_answers: Callable[[Answer], None], root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store.download(source.dataset("one", {"only": b"1"}), engine)
    disk_answers(lambda _name, _before: errno.EIO)

    def dead(_disk: object, path: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(scrub, "read_piece", dead)
        with pytest.raises(DiskFault):
            store.scrub(0)
        assert quarantined(store) == 0
    assert store.scrub(0).bad == 1


def test_what_can_be_read_at_the_second_try_is_not_condemned(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None]
) -> None:
    disk_answers(lambda name, before: errno.EIO if name in {"f3", "f7"} and before == 0 else 0)
    assert store.scrub(0).bad == 0
    assert store.check(manifest.digest).complete


def test_a_disk_of_which_every_second_place_fails_is_a_dying_disk_and_stays_one(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None]
) -> None:
    order = sorted(FILES)
    disk_answers(lambda name, _before: errno.EIO if order.index(name) % 2 else 0)
    for _ in range(3):
        with pytest.raises(DiskFault):
            store.scrub(0)
        assert quarantined(store) == health.MAX_UNREADABLE


def test_wrong_bytes_condemn_at_once_also_between_unreadable_ones(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None]
) -> None:
    path = store.root / "snapshots" / manifest.digest / "data" / "f5"
    path.chmod(0o644)
    path.write_bytes(b"x" * 1000)
    disk_answers(lambda name, _before: errno.EIO if name == "f4" else 0)
    assert store.scrub(0).bad == 2


def test_while_the_disk_is_dying_no_pod_is_released_onto_it_and_nothing_is_fetched(
    store: NodeStore, manifest: Manifest, engine: DictEngine, disk_answers: Callable[[Answer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each names the place on the disk. A whole round without a fault ends that."""
    told: list[bool] = []
    disk_answers(lambda _name, _before: errno.ETIMEDOUT)
    with store.background(poll_s=0.01, on_damage=lambda: told.append(True)):
        wait_for(lambda: store.disk_fault() != "" and bool(told))  # the fault is known a moment before it is told
        assert "ETIMEDOUT" in store.disk_fault()
        assert f"{store.root}/snapshots/{manifest.digest}/data/f0" in store.disk_fault()
        for call in (
            lambda: store.check_for_pod("uid", 0, manifest.digest, manifest.uri),
            lambda: store.download(manifest, engine),
            store.probe,
        ):
            with pytest.raises(DiskFault, match=r"ETIMEDOUT.*drain the node"):
                call()
        assert told == [True], "a reconcile is asked for once"
        disk_answers(lambda _name, _before: 0)
        wait_for(lambda: store.disk_fault() == "")
    store.probe()


def test_a_fault_that_nobody_meets_again_is_forgotten(
    store: NodeStore, manifest: Manifest, disk_answers: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers(lambda _name, _before: errno.EIO)
    with pytest.raises(DiskFault):
        store.scrub(0)
    assert store.disk_fault()
    monkeypatch.setattr(health, "_REMEMBERED_S", 0.0)
    assert store.disk_fault() == ""
