"""`kube-cache store` as people type it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, wait_for


class Cli:
    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, *args: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "store", *args],
            env={"KUBE_CACHE_STORE__ROOT": str(self._root), "KUBE_CACHE_STORE__MIN_FREE": "0", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout or done.stderr


@pytest.fixture
def cli(store: NodeStore) -> Cli:
    return Cli(store.root)


def test_ls_and_du_show_what_is_there_and_who_holds_it(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    store.pin(manifest.digest, "pod/1")
    table = cli("ls")
    assert manifest.digest[:12] in table
    assert "s3://models/gpt" in table
    assert "pod/1" in table
    (row,) = json.loads(cli("ls", "--json"))
    assert (row["digest"], row["files"], row["bytes"], row["pinned_by"]) == (manifest.digest, 2, 2049, ["pod/1"])
    assert "2.0 KiB" in cli("du")
    usage = json.loads(cli("du", "--json"))
    assert usage["used"] == usage["snapshots"][0]["unique"] == 2049


def test_pin_keeps_and_unpin_and_evict_let_go(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    short = manifest.digest[:10]
    cli("pin", short, "--for", "1h")
    assert "user/cli" in cli("evict", short, code=3)
    cli("unpin", short)
    assert json.loads(cli("evict", short, "--json")) == [{"digest": manifest.digest, "size": 2049}]
    assert not store.check(manifest.digest).complete
    assert "no snapshot" in cli("evict", short, code=5)


def test_a_dataset_is_named_by_its_uri_where_that_is_clear(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    source = Source()
    uri = str(manifest.uri)
    assert "20" in cli("pin", uri, "--for", "1h"), "a time for people"
    (row,) = json.loads(cli("unpin", uri, "--json"))
    assert (row["digest"], row["removed"]) == (manifest.digest, True)
    newer = source.dataset("gpt", {"a": b"newer"})
    store.download(newer, DictEngine(source))
    assert newer.digest[:16] in cli("evict", uri, code=2)
    cli("evict", newer.digest)
    assert "no snapshot of s3://models/other" in cli("evict", "s3://models/other", code=5)
    cli("evict", uri)
    assert store.snapshots() == []


def test_the_pods_of_a_snapshot_are_shown_by_their_links(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    uid = "aaaaaaaa-1111-4222-8333-aaaaaaaaaaaa"
    store.link_pod(uid, 1, [manifest.digest])
    for verb in ("ls", "du"):
        assert f"pod/{uid}" in cli(verb)
    assert f"pod/{uid}" in cli("evict", manifest.digest, code=3)
    cli("unpin", manifest.digest, "--owner", f"pod/{uid}")
    assert not (store.root / "pods" / uid).exists()


def test_verify_and_scrub_find_damage(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    cli("verify", manifest.digest, "--full")
    cli("scrub", "--rate", "0")
    path = store.root / "snapshots" / manifest.digest / "data" / "a"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")
    assert "a was changed" in cli("verify", manifest.digest, code=4)
    assert "a was changed" in cli("verify", code=4), "without a name: all"
    bad = json.loads(cli("scrub", "--rate", "0", "--json", code=4))["bad"]
    assert [row["path"] for row in bad] == ["a"]


def files_of(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below the root: inode, time of its last change, owner."""
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_ctime_ns, status.st_uid)
    return found


@pytest.mark.parametrize("state", ["agent-runs", "agent-ended", "agent-crashed"])
def test_ls_and_du_change_nothing_on_the_disk(store: NodeStore, manifest: Manifest, tmp_path: Path, state: str) -> None:
    """Nor who owns a file: people run them as root beside an agent that may be another user."""
    store.pin(manifest.digest, "user/kim")
    root = store.root
    if state == "agent-ended":
        store.close()
        assert not list(root.glob("index.sqlite-*"))
    if state == "agent-crashed":  # a copy of the files as they are in the middle of work; the shared memory went
        root = tmp_path / "crashed"
        shutil.copytree(store.root, root, symlinks=True)
        (root / "index.sqlite-shm").unlink()
    before = files_of(root)
    for verb in ("ls", "du"):
        assert "user/kim" in Cli(root)(verb)
    after = files_of(root)
    if state == "agent-runs":  # SQLite notes in them where a reader reads, and sets their owner to what it is
        for name in (f"{root}/index.sqlite-shm", f"{root}/index.sqlite-wal"):
            assert before.pop(name)[0::2] == after.pop(name)[0::2]
    assert after == before


def test_ls_neither_rebuilds_nor_deletes_an_index_that_is_not_ours(
    cli: Cli, store: NodeStore, manifest: Manifest
) -> None:
    store.close()
    path = store.root / "index.sqlite"
    for content, words in ((b"no database" * 1000, "makes it anew"), (b"", "converts it")):
        path.write_bytes(content)
        assert words in cli("ls", code=1)
        assert path.read_bytes() == content
    path.unlink()
    assert "unable to open" in cli("ls", code=1)
    assert not path.exists()


def test_ctrl_c_exits_as_shells_expect(store: NodeStore, manifest: Manifest) -> None:
    before = store._opened.context.index.get_meta("scrub-round")
    with subprocess.Popen(
        # What runs in the background ignores Ctrl-C, and so do its children; this one is to be as at a terminal.
        ["env", "--default-signal=INT", sys.executable, "-m", "cli.main", "store", "scrub", "--rate", "0.000001"],
        env={"KUBE_CACHE_STORE__ROOT": str(store.root), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE, text=True,
    ) as scrub:  # fmt: skip
        wait_for(lambda: store._opened.context.index.get_meta("scrub-round") != before, seconds=60)
        scrub.send_signal(signal.SIGINT)
        _, errors = scrub.communicate(timeout=120)
    assert (scrub.returncode, errors) == (130, "")


def test_a_node_without_an_address_of_temporal_is_one_line_that_names_the_variable(cli: Cli) -> None:
    (line,) = cli("ls", "--node", "gpu-1", code=2).splitlines()
    assert "TEMPORAL_ADDRESS" in line


def test_wrong_usage_and_a_root_without_a_cache_are_told_apart(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    cli("evict", code=2)
    assert "is not a duration" in cli("pin", manifest.digest[:10], "--for", "soon", code=2)
    assert "is no cache" in Cli(store.root / "nowhere")("ls", code=1)
    assert "Exit codes" in cli("--help")
