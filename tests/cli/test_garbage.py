"""What the operator throws away is freed while it runs, though each workflow is a circle of objects."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from cli import garbage
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from tests.workflows.simulation import Run
from workflows.dataset_on_node import DatasetOnNode


@pytest.fixture
def tuned() -> Iterator[None]:
    before = gc.get_threshold()
    garbage.tune()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def entity(number: int) -> Run:
    snapshot = Snapshot("s3://models/gpt", f"{number:064x}", 3, 3000)
    arg = DatasetOnNodeInput("gpu-1", "disk", snapshot, state=DatasetState(ready=True))
    return Run(DatasetOnNode, arg, lambda _call: None)


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_workflows_that_leave_the_cache_when_they_are_old_are_freed_before_there_are_thousands() -> None:
    cache = [entity(number) for number in range(200)]
    made: list[weakref.ref[object]] = []
    most = 0
    for number in range(200, 2200):
        cache[number % 200].evict()
        cache[number % 200] = entity(number)
        made.append(weakref.ref(cache[number % 200]._instance))
        if number % 100 == 0:
            most = max(most, sum(one() is not None for one in made))
    for one in cache:
        one.evict()
    assert most < 1600, "of 2,000, of which 200 are in the cache"


_HEAPS = """
import asyncio, resource
from pathlib import Path
from cli import garbage

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

garbage.share_heaps()
blocks = [b"x" * (100_000 if number % 2 else 600) for number in range(4000)]
full = rss()
del blocks[1::2]  # what stays is between the holes
holed = rss()

async def wait():
    garbage._GIVE_BACK_EVERY_S = 0.01
    giving = asyncio.create_task(garbage.keep_giving_back())
    while rss() > full - 150 and not giving.done():
        await asyncio.sleep(0.01)

asyncio.run(asyncio.wait_for(wait(), 60))
print(full - holed, full - rss())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heaps are glibc's")
def test_memory_that_is_free_between_what_is_used_is_given_back() -> None:
    """190 MiB of holes."""
    ran = subprocess.run([sys.executable, "-c", _HEAPS], capture_output=True, text=True, check=True)
    at_once, given_back = map(int, ran.stdout.split())
    assert at_once < 50, "else there is nothing to give back, and the test proves nothing"
    assert given_back > 150
