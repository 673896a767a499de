"""SIGKILL at any moment: every byte is right after the restart, and little is fetched twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.errors import AccessDenied
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin, Reply
from tests.engine.fetcher import CREDENTIALS, Fetcher
from tests.engine.objects import DATA, MIB, full_object_headers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 50
BIG = DATA * 3  # 60 MiB: eight ranges

CHILD = """
import json, sys, pathlib
from kube_cache.engine.settings import EngineSettings
from kube_cache.engine import journal
from kube_cache.engine.engine import Engine
from kube_cache.engine import finisher, object_state
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import FetchJob
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings

object_state._FLUSH_S = finisher._TICK_S = 0.02  # so that a run of a second has many intervals
job = json.loads(sys.argv[1])
folder = pathlib.Path(job["folder"])
jobs = [FetchJob(RemoteObject("s3", "bucket", key, key, size, etag), folder / f"{key}.part", folder / f"{key}.journal")
        for key, size, etag in job["objects"]]
engine = Engine(EngineSettings(connections=4, max_connections=4, give_up_s=5), Origins(OriginSettings()))
print("begun", flush=True)
def print_done(done):
    print(json.dumps([done.job.object.key, done.verified, done.fetched_bytes, done.resumed_bytes]), flush=True)
engine.fetch(jobs, on_object=print_done)
engine.close()
"""


def test_fifty_kills_and_every_byte_is_right(origin: FaultyOrigin, clean_aws: object, tmp_path: Path) -> None:
    remote = origin.put("big", BIG, headers=full_object_headers(BIG))
    origin.script = lambda request: _paced if request.range else None
    job = json.dumps({"folder": str(tmp_path), "objects": [[remote.key, remote.size, remote.etag]]})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **CREDENTIALS,
        "AWS_ENDPOINT_URL_S3": origin.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    moments = random.Random(4)
    kills = resumed_once = finished = 0
    while kills < KILLS:
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, job], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            time.sleep(moments.uniform(0, 0.7))
            kills += child.poll() is None
            child.send_signal(signal.SIGKILL)
            out = child.stdout.read()
        for line in out.splitlines():
            key, verified, _, resumed = json.loads(line)
            finished += 1
            resumed_once += resumed > 0
            assert verified == "full-object"
            assert (tmp_path / f"{key}.part").read_bytes() == BIG
            for name in ("part", "journal"):
                (tmp_path / f"{key}.{name}").unlink()
    origin.script = lambda _request: None
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, job], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        out = child.communicate(timeout=120)[0]
    assert out.count("full-object") == 1
    assert (tmp_path / "big.part").read_bytes() == BIG
    assert finished
    assert resumed_once


def _paced(reply: Reply) -> None:
    """Send slowly enough that a kill falls into the middle, quickly enough that some runs end."""
    reply.sock.sendall(reply.head)
    for start in range(0, len(reply.body), MIB):
        time.sleep(0.01)
        reply.sock.sendall(reply.body[start : start + MIB])


def test_journaled_ranges_are_not_fetched_again(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    """An engine that is closed in the middle, and a new one over the same files."""
    remote = origin.put("key", BIG, headers=full_object_headers(BIG))
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied") if request.range and request.range[0] >= 5 * 8 * MIB else None
    )
    first = make_fetcher(origin.endpoint, connections=1, max_connections=1)
    with pytest.raises(AccessDenied):
        first.fetch([remote])
    first.engine.close()
    before = len(origin.gets())
    origin.script = lambda _request: None
    second = make_fetcher(origin.endpoint)
    second.fetch([remote])
    assert second.content("key") == BIG
    assert second.done["key"].resumed_bytes == 5 * 8 * MIB
    assert len(origin.gets()) - before == 3
