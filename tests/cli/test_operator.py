"""The operator's process around its parts: waits for what is away, ends when told, refuses another's namespace."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from temporalio.client import Client

from kube_cache import names
from kube_cache.temporal.cluster import bind_cluster
from tests.kube.fakes import api_server
from tools.stack.temporal import Temporal
from tools.stack.waiting import true as until

ROOT = Path(__file__).parents[2]


@contextmanager
def operator(folder: Path, *, api: str, temporal: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `kube-cache operator`; its process and its log."""
    kubeconfig = folder / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": api}}
    context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
    config = {
        "clusters": [cluster],
        "contexts": [context],
        "users": [{"name": "c", "user": {}}],
        "current-context": "c",
    }
    kubeconfig.write_text(json.dumps(config))
    log = folder / "log"
    env = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "TEMPORAL_ADDRESS": temporal,
        "KUBE_CACHE_TELEMETRY__HTTP_ADDRESS": "127.0.0.1:0",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "cli.main", "operator"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output) as process,
    ):
        try:
            yield process, log
        finally:
            process.kill()


def status(log: Path, path: str) -> int:
    port = re.search(r'"port": (\d+)', log.read_text())
    assert port is not None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.slow
def test_an_operator_without_temporal_is_alive_not_ready_and_ends_when_told(tmp_path: Path) -> None:
    with operator(tmp_path, api="http://127.0.0.1:1", temporal="127.0.0.1:1") as (process, log):
        until(lambda: "Temporal does not answer" in log.read_text(), "it waits for Temporal", 60)
        assert status(log, "/healthz") == 200
        assert status(log, "/readyz") == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_an_operator_of_another_cluster_refuses_to_start_and_says_how_to_mend_it(
    temporal_server: Temporal, tmp_path: Path
) -> None:
    async def bind() -> None:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        await bind_cluster(client, "cluster-a")

    async def free() -> None:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        await client.get_schedule_handle(names.CLUSTER_SCHEDULE).delete()

    asyncio.run(bind())
    namespace = json.dumps({"metadata": {"name": "kube-system", "uid": "cluster-b"}}).encode()
    try:
        with api_server(lambda *_: (200, namespace, {})) as server:
            api = server.client._host
            with operator(tmp_path, api=api, temporal=temporal_server.address) as (process, log):
                assert process.wait(60) == 1
        assert re.search(r"cluster-a.*cluster-b.*TEMPORAL_NAMESPACE", log.read_text().splitlines()[-1])
    finally:
        asyncio.run(free())
