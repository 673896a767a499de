"""A node with a small disk of its own, for modules that fill it, break it or lose it; prefetches by `kubectl`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.kube.client import resource_path
from tests.e2e.disk import DiskNode
from tests.e2e.prefetch_resources import Resources
from tools.stack import Stack


@pytest.fixture(scope="module")
def disk(request: pytest.FixtureRequest, stack: Stack) -> Iterator[DiskNode]:
    """48 MiB, of which a fifth is kept free: 38 for the cache. A module's `AGENT_ENV` goes to its agent."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = DiskNode(stack, "size=48m,nr_inodes=3000", getattr(request.module, "AGENT_ENV", {}))
    yield made
    made.remove()


@pytest.fixture
def resources(stack: Stack, namespace: str, tmp_path: Path) -> Iterator[Resources]:
    stack.cluster.wait_served(resource_path(names.PREFETCHES))
    made = Resources(stack, namespace, tmp_path)
    yield made
    made.delete_all()
