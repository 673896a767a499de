"""`kube-cache store` as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import Manifest
from kube_cache.store.node_store import NodeStore


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


def test_verify_and_scrub_find_damage(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    cli("verify", manifest.digest, "--full")
    cli("scrub", "--rate", "0")
    path = store.root / "snapshots" / manifest.digest / "data" / "a"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")
    assert "a was changed" in cli("verify", manifest.digest, code=4)
    bad = json.loads(cli("scrub", "--rate", "0", "--json", code=4))["bad"]
    assert [row["path"] for row in bad] == ["a"]


def test_wrong_usage_and_a_root_without_a_cache_are_told_apart(cli: Cli, store: NodeStore, manifest: Manifest) -> None:
    cli("evict", code=2)
    assert "is not a duration" in cli("pin", manifest.digest[:10], "--for", "soon", code=2)
    assert "is no cache" in Cli(store.root / "nowhere")("ls", code=1)
    assert "Exit codes" in cli("--help")
