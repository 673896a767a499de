"""`kube-cache fetch` and `store warm` on a real S3 server: right bytes, resumed after a kill, stable exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kube_cache.directory.download import FOLDER
from tests.e2e.promises import MIB, journaled_in, same_bytes
from tools.stack.buckets import Bucket
from tools.stack.s3 import READER, REGION, S3Server
from tools.stack.s3_proxy import S3Proxy
from tools.stack.waiting import true

ROOT = Path(__file__).parents[2]
SIZES = [1 * MIB, 2 * MIB, 3 * MIB, 40 * MIB]
TOTAL = sum(SIZES)


class Command:
    """The command line, in an environment that knows the server and nothing else."""

    def __init__(self, endpoint: str, home: Path) -> None:
        self.store = home / "store"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": READER.access_key,
            "AWS_SECRET_ACCESS_KEY": READER.secret_key,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "KUBE_CACHE_STORE__ROOT": str(self.store),
            "KUBE_CACHE_STORE__ALLOW_ROOT_DISK": "true",
            "KUBE_CACHE_STORE__MIN_FREE": "0",
            "KUBE_CACHE_ENGINE__GIVE_UP_S": "1",
        }

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            cwd=ROOT, env={**self.env, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
        """Run with `--json`; the exit code, the summary, and standard error."""
        with self.start(*words, "--json", env=env) as process:
            out, err = process.communicate(timeout=90)
        assert READER.secret_key not in out + err
        summary = json.loads(out) if out else {}
        assert summary.get("exit_code", process.returncode) == process.returncode
        return process.returncode, summary, err


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    proxy = S3Proxy(s3_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    bucket = Bucket(s3_server, f"test-{uuid.uuid4().hex[:10]}")
    yield bucket
    bucket.delete()


@pytest.fixture
def command(proxy: S3Proxy, tmp_path: Path) -> Command:
    proxy.forget()
    return Command(proxy.endpoint, tmp_path)


def files(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_a_fetch_brings_every_byte_once_and_a_second_one_none(
    command: Command, proxy: S3Proxy, bucket: Bucket, tmp_path: Path
) -> None:
    content = bucket.fill("gpt", {"weights.bin": 20 * MIB + 7, "sub/config.json": 12})
    code, summary, _ = command.run("fetch", bucket.uri("gpt"), str(tmp_path / "data"), "--connections", "4")
    assert code == 0
    assert files(tmp_path / "data") == content
    assert (summary["files"], summary["bytes"], summary["fetched_bytes"]) == (2, 20 * MIB + 19, 20 * MIB + 19)
    assert summary["verified"] == "full-object"
    assert proxy.bytes_served(bucket.name) == 20 * MIB + 19
    code, summary, _ = command.run("fetch", bucket.uri("gpt"), str(tmp_path / "data"), "--verify")
    assert (code, summary["fetched_bytes"], summary["present_bytes"]) == (0, 0, 20 * MIB + 19)
    assert proxy.bytes_served(bucket.name) == 20 * MIB + 19


@pytest.mark.parametrize("place", ["directory", "store"])
def test_after_a_sigkill_only_the_rest_is_fetched(
    command: Command, proxy: S3Proxy, bucket: Bucket, tmp_path: Path, place: str
) -> None:
    content = bucket.fill("gpt", SIZES)
    data = tmp_path / "data"
    words = ["fetch", bucket.uri("gpt"), str(data)] if place == "directory" else ["store", "warm", bucket.uri("gpt")]
    work = data / FOLDER if place == "directory" else command.store / "incoming"
    with proxy.only(gets=len(SIZES) - 1 + 2), command.start(*words) as process:  # two ranges of the large object
        true(lambda: journaled_in(work) >= 16 * MIB, "two ranges are durable")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.communicate()
    kept = journaled_in(work)  # the kill may come before a small object has its name
    assert kept < SIZES[-1], "the kill came too late"
    proxy.forget()
    code, summary, _ = command.run(*words)
    assert code == 0
    assert proxy.bytes_served(bucket.name) == summary["fetched_bytes"]
    assert summary["fetched_bytes"] <= TOTAL - kept
    assert summary["fetched_bytes"] + summary["resumed_bytes"] + summary["present_bytes"] == TOTAL
    if place == "directory":
        assert files(data) == content
    else:
        same_bytes(Path(summary["place"]), content)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_fetch_says_so_and_goes_on_the_next_time(
    command: Command, proxy: S3Proxy, bucket: Bucket, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    content = bucket.fill("gpt", SIZES)
    words = ["fetch", bucket.uri("gpt"), str(tmp_path / "data")]
    with proxy.limited(16 * MIB, at_most=TOTAL - MIB), command.start(*words) as process:
        true(lambda: proxy.bytes_served(bucket.name) > sum(SIZES[:3]) + 9 * MIB, "a range has come")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "type the command again to resume" in err
    done, summary, _ = command.run(*words)
    assert done == 0
    assert files(tmp_path / "data") == content
    assert summary["fetched_bytes"] < TOTAL


def test_wrong_bytes_get_no_name(command: Command, s3_server: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fill("gpt", {"good": MIB, "bad": MIB})
    s3_server.damage(bucket.name, "gpt/bad", 5000)
    code, summary, err = command.run("fetch", bucket.uri("gpt"), str(tmp_path / "data"))
    assert (code, summary["error"]) == (4, "ChecksumMismatch")
    assert "gpt/bad" in err
    assert not (tmp_path / "data" / "bad").exists()


def test_each_failure_has_its_exit_code(
    command: Command, proxy: S3Proxy, s3_server: S3Server, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.fill("gpt", [5])
    data = str(tmp_path / "data")
    assert command.run("fetch", "not a uri", data)[0] == 2
    assert command.run("fetch", bucket.uri("nothing"), data)[0] == 5
    assert command.run("fetch", bucket.uri("gpt"), data)[0] == 0
    bucket.fill("other", [5])
    assert command.run("fetch", bucket.uri("other"), data)[0] == 3, "the directory holds another dataset"
    wrong = {"AWS_SECRET_ACCESS_KEY": "another-secret-of-some-length"}
    assert command.run("fetch", bucket.uri("gpt"), data, env=wrong)[0] == 3
    with proxy.refusing(503):
        assert command.run("fetch", bucket.uri("gpt"), data)[0] == 6
    file = tmp_path / "file"
    file.write_text("")
    assert command.run("fetch", bucket.uri("gpt"), str(file / "below"))[0] == 1


def test_a_store_without_a_cluster_is_warmed_and_inspected(command: Command, proxy: S3Proxy, bucket: Bucket) -> None:
    content = bucket.fill("gpt", {"a": 3 * MIB, "sub/b": 7})
    code, summary, _ = command.run("store", "warm", bucket.uri("gpt"))
    assert code == 0
    same_bytes(Path(summary["place"]), content)
    assert (command.store / "datasets/s3" / bucket.name / "gpt/@current").resolve() == Path(summary["place"]).resolve()
    assert command.run("store", "warm", bucket.uri("gpt"))[1]["fetched_bytes"] == 0
    assert proxy.bytes_served(bucket.name) == 3 * MIB + 7
    with command.start("store", "ls", "--json") as process:
        (row,) = json.loads(process.communicate(timeout=60)[0])
    assert row["digest"] == summary["digest"]


def test_a_rate_is_heeded(command: Command, bucket: Bucket, tmp_path: Path) -> None:
    """At 4 MiB/s, 12 MiB take longer than two seconds on any machine."""
    bucket.fill("gpt", [4 * MIB] * 3)
    code, summary, _ = command.run("fetch", bucket.uri("gpt"), str(tmp_path / "data"), "--max-rate", "4")
    assert code == 0
    assert summary["seconds"] > 1.5
