"""A real node for the tests of this folder: kubelet and containerd in namespaces of their own, no fake node beside it.

`node` is the bare node, `deployed` the product on it, from chart and image. Tests run in one process and one after
another (`tests/plugins/parallel.py`), because they share the node. What makes them run is told at the end of a run
where they did not.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.deployed import Deployment
from tests.node.workloads import IMAGE
from tests.plugins import steps
from tools import image
from tools.node import images, machine
from tools.node.node import SERVERS, RealNode
from tools.servers import build
from tools.servers.pins import PINS
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.stack import KUBERNETES, S3

HERE = Path(__file__).parent
_TIMEOUT_S = 900
"""Of the first test, with the build of an image from nothing, which may wait for another process's."""
CUDA = "nvidia/cuda:12.0-base"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and "node" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.needs_server(*SERVERS))
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Stack]:
    """Kubernetes and S3, without what we ship; nodes and Temporal are what the tests are about."""
    if why := machine.missing():
        pytest.skip(why)
    servers = [KUBERNETES, S3]
    with Stack(servers=servers, node_count=0, with_product=False, with_rules=False, count_s3=True) as stack:
        stack.cluster.wait_namespace("default")
        yield stack


@pytest.fixture(scope="session")
def node(cluster: Stack) -> Iterator[RealNode]:
    with RealNode(cluster, report=steps.tell) as made:
        made.load(images.busybox(IMAGE))
        yield made


@pytest.fixture(scope="module")
def second(cluster: Stack, built: image.Image, deployed: Deployment) -> Iterator[RealNode]:
    """A second node beside that of `deployed`, whose Pods reach that one's, for the tests of one module."""
    with RealNode(cluster, 2, report=steps.tell) as made:
        made.link(deployed.node)
        for loaded in (images.busybox(IMAGE), built.archive):
            made.load(loaded)
        deployed.reach_from(made)
        yield made
    cluster.api.delete(f"/api/v1/nodes/{made.name}")


def tell_step(step: image.Step) -> None:
    size = f", {step.size / 1e6:.1f} MB" if step.size else ""
    kept = ", kept from an earlier build" if step.kept else ""
    steps.tell(f"image: {step.name}: {step.seconds:.1f} s{size}{kept}")


@pytest.fixture(scope="session")
def built() -> image.Image:
    """The product's image, from the Dockerfile's own steps."""
    try:
        return image.build(tell=tell_step)
    except image.CannotBuildHere as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def deployed(cluster: Stack, built: image.Image, node: RealNode) -> Deployment:
    made = Deployment(cluster, node)
    binary = build.ensure(["temporal"])["temporal"]
    node.load(images.temporal(binary, f"temporalio/temporal:{PINS['temporal'].version}"))
    node.load(images.busybox(CUDA))
    node.load(built.archive)
    node.timed("Temporal from temporal-dev.yaml", made.install_temporal)
    made.prepare()
    node.timed("helm install", made.upgrade)
    node.timed("operator and agent are ready", made.ready)
    made.advertise(8)
    return made


@pytest.fixture
def pods(cluster: Stack, node: RealNode) -> Iterator[Pods]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    cluster.cluster.create_namespace(name)
    found = Pods(cluster.api, name)
    yield found
    for pod in found.all():
        found.delete(pod["metadata"]["name"])
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def bucket(cluster: Stack) -> Iterator[Bucket]:
    made = Bucket(cluster.s3, f"test-{uuid.uuid4().hex[:10]}")
    yield made
    made.delete()
