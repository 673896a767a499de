"""Fixtures over the real servers, shared by every test that needs them.

A session fixture starts its servers on first use: `kube` (Kubernetes with fake nodes), `temporal_server`, `s3_server`,
and `stack` (all of them with operator, agents and a counting proxy before S3). A function fixture gives a test a place
of its own: `namespace`, `pods` and `bucket` in the shared `stack`, `kube_pods` in `kube`. A test may kill a part of the
stack and leave it dead: the stack is repaired before the next test.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Span
from tests import logs
from tools.servers import build
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.s3 import S3Server
from tools.stack.stack import KUBERNETES, S3, TEMPORAL
from tools.stack.temporal import Temporal

if TYPE_CHECKING:
    from kube_cache.kube.client import KubeClient

pytest_plugins = (
    "tests.plugins.did_not_run",
    "tests.plugins.garbage",
    "tests.plugins.parallel",
    "tests.plugins.run_log",
    "tests.plugins.steps",
)

_SERVERS_OF = {
    "kube": (KUBERNETES,),
    "temporal_server": (TEMPORAL,),
    "s3_server": (S3,),
    "stack": (KUBERNETES, TEMPORAL, S3),
}
# The stack's nodes are as new as the stack, and their agents are there from the start: one that is away is away.
_BRISK = {
    "KUBE_CACHE_OPERATOR__SWEEP_INTERVAL_S": "3",
    "KUBE_CACHE_OPERATOR__NEW_NODE_S": "1",
    "KUBE_CACHE_OPERATOR__PREFETCH_LOOK_S": "3",
}
"""Pods whose workflow was ended, and nodes that a prefetch gains or loses, are found after 3 s, not after the defaults
of 30 and 60: a dozen tests wait for that."""

# How long an example takes tells of the machine, which the servers of other tests share, and not of the code.
settings.register_profile("kube-cache", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kube-cache")

_LOG_LINES = 40
_failed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that need the servers, so that `-m "not stack"` runs the rest."""
    for item in items:
        if _SERVERS_OF.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker("stack")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the servers before the first test: a first build takes minutes, more than a test's time limit."""
    if session.config.option.collectonly:
        return
    if any(item.get_closest_marker("stack") for item in session.items):
        build.ensure()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        item.session.config.stash[_failed] = True
        stack = getattr(item, "funcargs", {}).get("stack")
        if isinstance(stack, Stack):
            for part in [*stack.operators, *stack.agents.values()]:
                lines = part.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                report.sections.append((f"end of {part.name}'s log", "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Kubernetes with three fake GPU nodes; no operator, so that nothing but the test touches its Pods."""
    with _running(request, "kube", Stack(servers=[KUBERNETES], with_product=False)) as stack:
        yield stack


@pytest.fixture(scope="session")
def kube_client(kube: Stack) -> KubeClient:
    """The product's own client, with the operator's real rights."""
    from kubernetes import client, config

    from kube_cache.kube.client import KubeClient

    configuration = client.Configuration()
    config.load_kube_config(str(kube.operator_kubeconfig), client_configuration=configuration)
    return KubeClient(configuration)


@pytest.fixture
def kube_pods(kube: Stack) -> Iterator[Pods]:
    """Pods of a namespace of the test's own in `kube`, which admission leaves as they are written."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    kube.cluster.create_namespace(name, exempt=True)
    pods = Pods(kube.api, name)
    yield pods
    # The end of a namespace takes seconds, in which its Pods would keep their GPUs from the next test.
    for pod in pods.all():
        pods.delete(pod["metadata"]["name"])
    kube.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def temporal_server(request: pytest.FixtureRequest) -> Iterator[Temporal]:
    """Temporal alone, with our namespace, search attributes and settings."""
    with _running(request, "temporal", Stack(servers=[TEMPORAL], with_product=False)) as stack:
        yield stack.temporal


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with _running(request, "s3", Stack(servers=[S3], with_product=False)) as stack:
        yield stack.s3


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything: servers, operator, three nodes with an agent each, S3 behind the counting proxy."""
    with _running(request, "stack", Stack(count_s3=True, operator_env=_BRISK)) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _repair_stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start again, after the test, every part of the stack that the test stopped."""
    yield
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").repair()


@pytest.fixture
def namespace(stack: Stack) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    stack.cluster.create_namespace(name)
    yield name
    stack.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def pods(stack: Stack, namespace: str) -> Pods:
    return Pods(stack.api, namespace)


@pytest.fixture
def exempt_pods(stack: Stack) -> Iterator[Pods]:
    """Pods of a namespace that the admission policies leave alone: the operator alone judges what users write."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    stack.cluster.create_namespace(name, exempt=True)
    yield Pods(stack.api, name)
    stack.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def bucket(stack: Stack) -> Iterator[Bucket]:
    """Bucket that the product may read."""
    bucket = Bucket(stack.s3, f"test-{uuid.uuid4().hex[:10]}")
    yield bucket
    stack.repair()  # a test may have stopped the server
    bucket.delete()


@contextmanager
def _running(request: pytest.FixtureRequest, name: str, stack: Stack) -> Iterator[Stack]:
    """Run the stack, and keep its logs when a test of the session has failed."""
    with stack:
        yield stack
        kept = logs.of_process(request.config) / name
        shutil.rmtree(kept, ignore_errors=True)
        if request.config.stash.get(_failed, False):
            shutil.copytree(stack.logs, kept)


@pytest.fixture
def sent() -> Iterator[list[Span]]:
    """Spans that are sent meanwhile."""
    found: list[Span] = []
    spans.set_sink(found.append)
    yield found
    spans.set_sink(None)
