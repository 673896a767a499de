"""The development stack keeps what it promises: real servers, real rights, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from kube_cache import names
from tools.stack import Stack, StackError, control_plane, pods, s3, waiting
from tools.stack.api import ApiError, KubeApi
from tools.stack.buckets import Bucket
from tools.stack.s3 import S3Server
from tools.stack.s3_proxy import S3Proxy
from tools.stack.temporal import Temporal

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20


def alive(pid: int) -> bool:
    """There and not a zombie: a dead child of a dead parent may wait for init to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(pids: list[int]) -> list[int]:
    return [pid for pid in pids if alive(pid)]


# Lifetime


HOLDER = """
import json, sys, threading
from tools.stack import Stack
with Stack(with_product=False) as stack:
    pids = [process.pid for process in stack.processes.running]
    print(json.dumps({"servers": pids, "supervisor": stack.processes.supervisor.pid}), flush=True)
    threading.Event().wait()
"""


def hold_a_stack() -> tuple[subprocess.Popen[str], list[int], int]:
    owner = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    told = json.loads(owner.stdout.readline())
    owner.stdout.close()
    return owner, told["servers"], told["supervisor"]


@pytest.mark.stack
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_nothing_outlives_the_owner(number: int) -> None:
    owner, servers, supervisor = hold_a_stack()
    assert len(servers) == 7
    assert survivors(servers) == servers
    owner.send_signal(number)
    owner.wait()
    waiting.until(lambda: survivors([*servers, supervisor]), lambda left: not left, "every process gone", 10)


@pytest.mark.stack
def test_nothing_outlives_the_supervisor() -> None:
    owner, servers, supervisor = hold_a_stack()
    try:
        os.kill(supervisor, signal.SIGKILL)
        waiting.until(lambda: survivors(servers), lambda left: not left, "every process gone", 10)
    finally:
        owner.kill()
        owner.wait()


@pytest.mark.stack
def test_make_stack_writes_its_env_and_cleans_up_after_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    command = [sys.executable, "-m", "tools.stack", "--bare", "--nodes", "1", "--dir", str(folder)]
    with subprocess.Popen(
        # As a shell starts a background job: with SIGINT ignored.
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
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 0, said
    assert "Temporal UI" in said
    assert not (folder / "env").exists()
    assert survivors(children) == []
    assert (folder / "logs" / "kube-apiserver.log").exists()


@pytest.mark.stack
def test_make_stack_ends_with_a_make_that_is_killed(tmp_path: Path) -> None:
    """The stack is a child of make there, and SIGKILL does not spread by itself."""
    folder = tmp_path / "stack"
    command = [sys.executable, "-m", "tools.stack", "--bare", "--nodes", "1", "--end-with-parent", "--dir", str(folder)]
    # The trailing command keeps the shell from replacing itself.
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{shlex.join(command)}; true"], cwd=CHECKOUT, stdout=subprocess.DEVNULL
    ) as make:
        waiting.true((folder / "env").exists, "the env file", 60)
        left = descendants(make.pid)
        assert len(left) == 9  # the stack, its supervisor and seven servers
        make.kill()
    waiting.until(lambda: survivors(left), lambda there: not there, "every process gone", 15)
    assert not (folder / "env").exists()


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@pytest.mark.stack
def test_a_folder_that_is_no_stack_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(StackError, match="not empty and not a stack's folder"),
        Stack(state=tmp_path, with_product=False),
    ):
        pass
    assert (tmp_path / "thesis.txt").exists()


# Kubernetes


def test_pods_run_on_gpu_nodes_only_if_they_tolerate_them(kube: Stack) -> None:
    ml = pods.Pods(kube.api, control_plane.USER_NAMESPACE)
    ml.create(pods.gated("tolerant", "s3://a/b", gates=[], gpus=0))
    ml.create(pods.gated("intolerant", "s3://a/b", gates=[], gpus=0, spec={"tolerations": []}))
    bound = ml.wait("tolerant", lambda pod: pod["status"]["phase"] == "Running", "running")
    assert pods.node(bound) in kube.nodes
    refused = ml.wait("intolerant", lambda pod: pod["status"].get("conditions"), "looked at by the scheduler")
    assert refused["status"]["conditions"][0]["reason"] == "Unschedulable"
    for name in ("tolerant", "intolerant"):
        ml.delete(name)
        ml.wait_gone(name)


def test_a_pod_that_asks_for_gpus_tolerates_gpu_nodes_without_saying_so(kube: Stack) -> None:
    """As the README's Pod, which names no toleration."""
    ml = pods.Pods(kube.api, control_plane.USER_NAMESPACE)
    ml.create(pods.gated("readme", "s3://a/b", gates=[], spec={"tolerations": []}))
    assert pods.node(ml.wait_bound("readme")) in kube.nodes
    ml.delete("readme")
    ml.wait_gone("readme")


def test_a_node_takes_as_many_gpu_pods_as_it_has_gpus(kube: Stack) -> None:
    ml = pods.Pods(kube.api, control_plane.USER_NAMESPACE)
    capacity = kube.gpus * len(kube.nodes)
    created = [f"full-{k}" for k in range(capacity + 1)]
    for name in created:
        ml.create(pods.gated(name, "s3://a/b", gates=[]))
    waiting.until(
        lambda: sum(1 for pod in ml.all() if pods.node(pod)), lambda bound: bound == capacity, "all GPUs taken"
    )
    left = [pod for pod in ml.all() if not pods.node(pod)]
    assert len(left) == 1
    assert (
        "Insufficient nvidia.com/gpu"
        in ml.wait(left[0]["metadata"]["name"], lambda pod: pod["status"].get("conditions"), "refused")["status"][
            "conditions"
        ][0]["message"]
    )
    for name in created:
        ml.delete(name)
    for name in created:
        ml.wait_gone(name)


def test_conditions_of_others_survive_the_fake_kubelet(kube: Stack) -> None:
    ml = pods.Pods(kube.api, control_plane.USER_NAMESPACE)
    ml.create_gated("condition", "s3://a/b", gates=["example.com/held"])
    ours = {"type": names.CONDITION, "status": "True", "reason": "Done"}
    path = f"/api/v1/namespaces/{control_plane.USER_NAMESPACE}/pods/condition/status"
    merge = "application/strategic-merge-patch+json"
    kube.api.request("PATCH", path, {"status": {"conditions": [ours]}}, content_type=merge)
    ml.remove_gate("condition", "example.com/held")
    running = ml.wait("condition", lambda pod: pod["status"]["phase"] == "Running", "running")
    assert pods.condition(running)["reason"] == "Done"
    ml.delete("condition")


@pytest.mark.parametrize(
    ("allowed", "verb", "resource", "namespace"),
    [
        (True, "list", "pods", ""),
        (True, "watch", "pods", ""),
        (True, "patch", "pods", "ml"),
        (True, "patch", "pods/status", "ml"),
        (True, "create", "events.events.k8s.io", "ml"),
        (True, "list", "nodes", ""),
        (True, "create", "pods", "kube-cache-system"),
        (True, "delete", "pods", "kube-cache-system"),
        (False, "create", "pods", "ml"),
        (False, "delete", "pods", "ml"),
        (False, "update", "pods", "ml"),
        (False, "create", "pods/binding", "ml"),
        (False, "create", "pods/exec", "ml"),
        (False, "patch", "nodes", ""),
        (False, "get", "secrets", "kube-cache-system"),
        (False, "list", "configmaps", "ml"),
        (False, "create", "serviceaccounts/token", "kube-cache-system"),
        (False, "escalate", "clusterroles.rbac.authorization.k8s.io", ""),
    ],
    ids=lambda value: str(value).replace("/", "-") if value != "" else "cluster",
)
def test_the_operator_has_its_rights_and_no_more(
    kube: Stack, allowed: bool, verb: str, resource: str, namespace: str
) -> None:
    whole, _, subresource = resource.partition("/")
    name, _, group = whole.partition(".")
    asked = {"verb": verb, "resource": name, "group": group, "subresource": subresource, "namespace": namespace}
    review = KubeApi(kube.operator_kubeconfig).create(
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": asked},
        }
    )
    assert review["status"]["allowed"] is allowed


def test_the_audit_log_tells_a_release_from_other_writes(kube: Stack) -> None:
    namespace = control_plane.USER_NAMESPACE
    operator = pods.Pods(KubeApi(kube.operator_kubeconfig), namespace)
    ml = pods.Pods(kube.api, namespace)
    ml.create_gated("audited", "s3://a/b", gates=[names.GATE, "example.com/held"])
    operator.remove_gate("audited", "example.com/held")
    assert kube.audit.releases(namespace, "audited") == []
    stale = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/audited"
    with pytest.raises(ApiError, match="409"):
        operator.api.request("PATCH", path, stale, content_type="application/strategic-merge-patch+json")
    assert kube.audit.releases(namespace, "audited") == []
    operator.remove_gate("audited", names.GATE)
    assert [write.user for write in kube.audit.releases(namespace, "audited")] == [control_plane.OPERATOR_USER]
    ml.delete("audited")
    ml.wait_gone("audited")


def test_a_stranger_is_refused(kube: Stack) -> None:
    stranger = KubeApi(kube.cluster.user_kubeconfig("stranger"))
    with pytest.raises(ApiError, match="forbidden") as refused:
        stranger.get("/api/v1/pods")
    assert refused.value.status == 403


def test_the_api_server_comes_back_with_everything(kube: Stack) -> None:
    before = kube.api.get("/api/v1/namespaces/ml")["metadata"]["uid"]
    kube.cluster.control_plane.stop_apiserver()
    kube.cluster.control_plane.start_apiserver()
    assert kube.api.get("/api/v1/namespaces/ml")["metadata"]["uid"] == before


def test_what_a_test_breaks_is_mended_for_the_next(kube: Stack) -> None:
    kube.remove_node("gpu-2")
    kube.cluster.control_plane.stop_apiserver()
    kube.repair()
    found = {node["metadata"]["name"] for node in kube.api.get("/api/v1/nodes")["items"]}
    assert found == set(kube.nodes) == {"gpu-1", "gpu-2", "gpu-3"}


# S3


@pytest.fixture
def place(s3_server: S3Server, request: pytest.FixtureRequest) -> Bucket:
    """A bucket that is granted to the reader."""
    return Bucket(s3_server, f"b{abs(hash(request.node.name)):x}"[:20])


def test_the_reader_sees_what_it_was_granted_and_nothing_else(s3_server: S3Server, place: Bucket) -> None:
    place.put("a", b"granted")
    secret = Bucket(s3_server, "not-granted", readable=False)
    secret.put("a", b"secret")
    reader = s3.client(s3_server.endpoint, s3.READER)
    assert reader.get_object(Bucket=place.name, Key="a")["Body"].read() == b"granted"
    for refused in (
        lambda: reader.get_object(Bucket=secret.name, Key="a"),
        lambda: reader.list_objects_v2(Bucket=secret.name),
        lambda: reader.put_object(Bucket=place.name, Key="b", Body=b""),
        lambda: reader.delete_object(Bucket=place.name, Key="a"),
    ):
        with pytest.raises(ClientError, match="Access Denied"):
            refused()
    s3_server.grant(secret.name)
    assert reader.get_object(Bucket=secret.name, Key="a")["Body"].read() == b"secret"
    s3_server.revoke(secret.name)
    with pytest.raises(ClientError, match="Access Denied"):
        reader.get_object(Bucket=secret.name, Key="a")


def test_objects_survive_a_stop_and_come_back_on_the_same_address(s3_server: S3Server, place: Bucket) -> None:
    place.put("a", b"still here")
    endpoint = s3_server.endpoint
    s3_server.stop()
    try:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", s3_server.port)) != 0
    finally:
        s3_server.start()
    assert s3_server.endpoint == endpoint
    assert s3.client(endpoint, s3.READER).get_object(Bucket=place.name, Key="a")["Body"].read() == b"still here"


def test_a_paused_server_holds_its_connections_and_answers_later(s3_server: S3Server, place: Bucket) -> None:
    place.put("a", b"late")
    reader = s3.client(s3_server.endpoint, s3.READER)
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append(reader.get_object(Bucket=place.name, Key="a")["Body"].read()))
    s3_server.pause()
    reading.start()
    reading.join(0.3)
    assert reading.is_alive()
    s3_server.repair()
    reading.join(10)
    assert got == [b"late"]


def test_a_damaged_object_keeps_its_old_checksum(s3_server: S3Server, place: Bucket) -> None:
    place.put("a", b"0" * 1000)
    before = s3_server.client().head_object(Bucket=place.name, Key="a", ChecksumMode="ENABLED")
    s3_server.damage(place.name, "a", 500)
    after = s3_server.client().head_object(Bucket=place.name, Key="a", ChecksumMode="ENABLED")
    assert (after["ETag"], after["ChecksumCRC64NVME"]) == (before["ETag"], before["ChecksumCRC64NVME"])


# The counting proxy


@pytest.fixture
def proxy(s3_server: S3Server) -> S3Proxy:
    made = S3Proxy(s3_server.port)
    yield made
    made.close()


@pytest.fixture
def data(place: Bucket) -> bytes:
    return place.fill("set", {"a": 8 * MIB + 13})["a"]


def test_the_proxy_passes_every_byte_and_counts_it(proxy: S3Proxy, place: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    assert reader.list_objects_v2(Bucket=place.name)["KeyCount"] == 1
    assert reader.head_object(Bucket=place.name, Key="set/a")["ContentLength"] == len(data)
    assert proxy.bytes_served() == 0
    assert reader.get_object(Bucket=place.name, Key="set/a")["Body"].read() == data
    part = reader.get_object(Bucket=place.name, Key="set/a", Range="bytes=100-199")
    assert part["Body"].read() == data[100:200]
    with pytest.raises(ClientError, match="NoSuchKey"):
        reader.get_object(Bucket=place.name, Key="set/missing")
    assert proxy.bytes_by_key(place.name) == {"set/a": len(data) + 100}
    assert [each.range for each in proxy.exchanges(place.name, "set/a")] == ["", "bytes=100-199"]
    assert proxy.bytes_served(place.name, "other") == 0


def test_a_reader_that_hangs_up_is_counted_for_what_it_could_have_read(
    proxy: S3Proxy, place: Bucket, data: bytes
) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with proxy.limited(4 * MIB):
        body = reader.get_object(Bucket=place.name, Key="set/a")["Body"]
        body.read(MIB)
        body.close()
    # What was on its way in the kernel's buffers was served; the rest of the eight was not.
    assert MIB <= proxy.bytes_served(place.name) < len(data)


def test_nothing_flows_while_the_proxy_holds(proxy: S3Proxy, place: Bucket, data: bytes) -> None:
    got: list[bytes] = []

    def fetch() -> None:
        got.append(s3.client(proxy.endpoint, s3.READER).get_object(Bucket=place.name, Key="set/a")["Body"].read())

    reading = threading.Thread(target=fetch)
    with proxy.held():
        reading.start()
        reading.join(0.5)
        assert reading.is_alive()
        assert proxy.bytes_served(place.name) == 0
    reading.join(10)
    assert got == [data]


def test_the_proxy_keeps_a_rate(proxy: S3Proxy, place: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    started = time.monotonic()
    with proxy.limited(16 * MIB):
        assert reader.get_object(Bucket=place.name, Key="set/a")["Body"].read() == data
    assert 0.4 < time.monotonic() - started < 5


def test_the_proxy_refuses_on_demand(proxy: S3Proxy, place: Bucket, data: bytes) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    with proxy.refusing(503), pytest.raises(ClientError, match="503"):
        reader.get_object(Bucket=place.name, Key="set/a")
    assert reader.get_object(Bucket=place.name, Key="set/a")["Body"].read() == data


def test_a_stopped_server_looks_down_through_the_proxy(
    proxy: S3Proxy, s3_server: S3Server, place: Bucket, data: bytes
) -> None:
    reader = s3.client(proxy.endpoint, s3.READER)
    s3_server.stop()
    try:
        # A reset in the middle of a request, or already of the connection: both are how a store looks that is down.
        down = boto3.exceptions.botocore.exceptions
        with pytest.raises((down.HTTPClientError, down.EndpointConnectionError)):
            reader.get_object(Bucket=place.name, Key="set/a")
    finally:
        s3_server.start()
    assert reader.get_object(Bucket=place.name, Key="set/a")["Body"].read() == data


# Temporal


def test_workflows_survive_a_kill_of_the_temporal_server(temporal_server: Temporal) -> None:
    import asyncio

    from temporalio.client import Client

    async def begin() -> None:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        await client.start_workflow("Nothing", id="survivor", task_queue="nobody")

    async def look() -> str:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        description = await client.get_workflow_handle("survivor").describe()
        return description.status.name if description.status else ""

    asyncio.run(begin())
    temporal_server.stop()
    temporal_server.start()
    assert asyncio.run(look()) == "RUNNING"
