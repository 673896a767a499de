"""The lifetime of a stack: real servers, and nothing left behind however its owner ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tools.os_processes import descendants, survivors
from tools.stack import Stack, StackError, s3, waiting
from tools.stack.api import KubeApi

CHECKOUT = Path(__file__).parents[2]

HOLDER = """
import json, sys, threading
from tools.stack import Stack
with Stack(with_product=False) as stack:
    pids = [process.pid for process in stack.processes.running]
    print(json.dumps({"servers": pids, "supervisor": stack.processes.supervisor.pid}), flush=True)
    threading.Event().wait()
"""


class HeldStack(NamedTuple):
    """A stack in another process, and the pids of its servers and of its supervisor."""

    owner: subprocess.Popen[str]
    servers: list[int]
    supervisor: int


def hold_a_stack() -> HeldStack:
    owner = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = json.loads(owner.stdout.readline())
    owner.stdout.close()
    return HeldStack(owner, pids["servers"], pids["supervisor"])


@pytest.mark.stack
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_nothing_outlives_the_owner(number: int) -> None:
    owner, servers, supervisor = hold_a_stack()
    assert len(servers) == 7
    assert survivors(servers) == servers
    owner.send_signal(number)
    owner.wait()
    waiting.until(lambda: survivors([*servers, supervisor]), lambda left: not left, "every process gone")


@pytest.mark.stack
def test_nothing_outlives_the_supervisor() -> None:
    owner, servers, supervisor = hold_a_stack()
    try:
        os.kill(supervisor, signal.SIGKILL)
        waiting.until(lambda: survivors(servers), lambda left: not left, "every process gone")
    finally:
        owner.kill()
        owner.wait()


@pytest.mark.stack
def test_make_stack_writes_its_env_and_cleans_up_after_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    command = [sys.executable, "-m", "tools.stack", "--bare", "--nodes", "1", "--dir", str(folder)]
    with subprocess.Popen(
        # With SIGINT ignored, as a shell starts a background job.
        ["/bin/sh", "-c", f"trap '' INT; exec {shlex.join(command)}"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        waiting.true((folder / "env").exists, "the env file", 60)
        env = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
        assert set(env) == {
            "KUBECONFIG",
            "TEMPORAL_ADDRESS",
            "TEMPORAL_NAMESPACE",
            "TEMPORAL_UI",
            "AWS_ENDPOINT_URL_S3",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
            "CACHE_ROOTS",
        }
        assert KubeApi(Path(env["KUBECONFIG"])).get("/api/v1/nodes")["items"][0]["metadata"]["name"] == "gpu-1"
        assert Path(env["CACHE_ROOTS"]).is_dir()
        s3.client(env["AWS_ENDPOINT_URL_S3"], s3.OWNER).create_bucket(Bucket="from-the-env-file")
        children = descendants(running.pid)
        assert len(children) == 8  # seven servers and the supervisor
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    assert "Temporal UI" in output
    assert not (folder / "env").exists()
    assert survivors(children) == []
    assert (folder / "logs" / "kube-apiserver.log").exists()


@pytest.mark.stack
def test_make_stack_ends_with_a_make_that_is_killed(tmp_path: Path) -> None:
    """The stack is a child of make there, and SIGKILL reaches only make."""
    folder = tmp_path / "stack"
    command = [sys.executable, "-m", "tools.stack", "--bare", "--nodes", "1", "--end-with-parent", "--dir", str(folder)]
    # The trailing command keeps the shell from replacing itself.
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{shlex.join(command)}; true"], cwd=CHECKOUT, stdout=subprocess.DEVNULL
    ) as make:
        waiting.true((folder / "env").exists, "the env file", 60)
        pids = descendants(make.pid)
        assert len(pids) == 9  # the stack, its supervisor and seven servers
        make.kill()
    waiting.until(lambda: survivors(pids), lambda left: not left, "every process gone")
    assert not (folder / "env").exists()


@pytest.mark.stack
def test_a_folder_that_is_no_stack_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(StackError, match="not empty and not a stack's folder"),
        Stack(state=tmp_path, with_product=False),
    ):
        pass
    assert (tmp_path / "thesis.txt").exists()
