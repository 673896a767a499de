"""A real node of the dev stack's cluster: boots, takes Pods, loses its kubelet, its containerd or its power.

    with Stack(servers=…, node_count=0, with_product=False) as stack, RealNode(stack) as node:
        node.load(images.busybox("docker.io/library/busybox:1"))
        …
        node.reboot()

What a Pod reaches, and how (`network.py` says why so): the API server at the address of the Service `kubernetes`, other
Services by name and address once `expose`d, and ports of this machine's loopback that are `offer`ed at `OUTSIDE`, as
object storage is outside a cluster. Nothing else: no Internet, and no other node before it is `link`ed with.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tools.node import containerd, images, kubelet, network
from tools.node.dns import NameServer
from tools.node.machine import Machine
from tools.servers import build
from tools.stack import Stack
from tools.stack.pki import KUBERNETES_SERVICE
from tools.stack.processes import StackError

SERVERS = (*kubelet.SERVERS, *containerd.SERVERS)
OUTSIDE = "10.99.0.2"
_DNS = "10.0.0.10"

Report = Callable[[str], None]


class RealNode:
    """report: called with each step, its time and size."""

    def __init__(self, stack: Stack, number: int = 1, *, disk_mib: int = 2048, report: Report = lambda _: None) -> None:
        """number: from 1, another one for each node of a stack."""
        self.name = f"metal-{number}"
        self.pod_network = f"10.88.{number}.0/24"
        self._address = f"10.99.{number}.1"
        self._stack = stack
        self._disk_mib = disk_mib
        self._report = report
        self._undo = ExitStack()
        self._network = ExitStack()
        """Of one boot: its sockets end with it."""
        self._namespace: network.Namespace | None = None
        self._offers: dict[int, int] = {}
        self._exposed: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        binaries = build.ensure(SERVERS)
        cluster = self._stack.cluster
        with ExitStack() as undo:
            folder = self._stack.state / self.name
            self.machine = Machine(
                self._stack.processes,
                folder,
                disk_mib=self._disk_mib,
                addresses=[self._address, OUTSIDE, KUBERNETES_SERVICE, _DNS],
            )
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            undo.callback(self.machine.close)
            undo.callback(self._close_network)
            self.containerd = containerd.Containerd(self.machine, binaries, pod_network=self.pod_network)
            self.kubelet = kubelet.Kubelet(
                self.machine,
                binaries["kubelet"],
                self._stack.api,
                name=self.name,
                kubeconfig=cluster.node_kubeconfig(self.name),
                authority=cluster.authority,
                address=self._address,
                dns=_DNS,
            )
            self._stack.api.apply(kubelet.RIGHTS)
            self._boot()
            self.containerd.start()
            self.load(images.pause())
            self.kubelet.start()
            self.timed("kubelet registers", self.kubelet.wait_ready)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    # What Pods find.

    def load(self, image: images.Image | Path) -> None:
        """Load an image, or an OCI archive, into the node's containerd."""
        archive = image if isinstance(image, Path) else image.write(self.machine.folder / "image.tar")
        size = archive.stat().st_size / (1 << 20)
        name = archive.name if isinstance(image, Path) else image.name
        self.timed(f"load image {name}, {size:.0f} MiB", lambda: self.containerd.load(archive))
        if not isinstance(image, Path):
            archive.unlink()

    def offer(self, loopback_port: int) -> str:
        """Let Pods reach a port of this machine's loopback; the address that they use."""
        port = self._offers.setdefault(loopback_port, 8000 + len(self._offers))
        self._listen((OUTSIDE, port), network.to_loopback(loopback_port))
        return f"{OUTSIDE}:{port}"

    def expose(self, namespace: str, service: str) -> str:
        """Have a Service's address lead to its ready Pods, as kube-proxy does; the address."""
        self._exposed.append((namespace, service))
        return self._expose(namespace, service)

    def link(self, other: RealNode) -> None:
        """Lay a wire to another node, so that the Pods of both reach each other. It goes with a boot of either."""
        network.wire(self.machine.pid, other.machine.pid)
        for node, (mine, there), beyond in ((self, network.WIRE, other), (other, network.WIRE[::-1], self)):
            node.machine.run("ip", "address", "add", f"{mine}/30", "dev", "wire")
            node.machine.run("ip", "link", "set", "wire", "up")
            node.machine.run("ip", "route", "add", beyond.pod_network, "via", there)

    # What befalls the node.

    def kill_kubelet(self) -> None:
        self.kubelet.process.kill()

    def kill_containerd(self) -> None:
        """Containers and their shims go on."""
        self.containerd.process.kill()

    def start_kubelet(self) -> None:
        self.kubelet.start()
        self.kubelet.wait_ready()

    def power_off(self) -> None:
        """Every process ends at once, without a word to anybody; the disk stays."""
        self._close_network()
        self.machine.kill()

    def power_on(self, *, with_disk: bool = True) -> None:
        """with_disk: False for a cache's disk that `machine.mount_disk` mounts later."""
        self._boot(with_disk=with_disk)
        for port in self._offers:
            self.offer(port)
        for namespace, service in self._exposed:
            self._expose(namespace, service)
        self.containerd.start()
        self.kubelet.start()
        self.kubelet.wait_ready()

    def reboot(self, *, with_disk: bool = True) -> None:
        self.power_off()
        self.power_on(with_disk=with_disk)

    # What a person would look at.

    def path(self, inside: str | Path) -> Path:
        """Return a path of the node as this machine sees it; a link in it leads on within the node only as a whole."""
        return self.machine.path(inside)

    def logs(self, namespace: str, pod: str, container: str, run: int | None = None) -> str:
        """Return what the runs of a Pod's container wrote, oldest first, as far as the kubelet keeps it.

        pod: its name, or a pattern. run: one of them, by the container's restart count.
        """
        found = self.path("/var/log/pods").glob(f"{namespace}_{pod}_*/{container}/{'*' if run is None else run}.log")
        return "".join(path.read_text(errors="replace") for path in sorted(found))

    def timed(self, what: str, step: Callable[[], object]) -> None:
        started = time.monotonic()
        step()
        self._report(f"node: {what}: {time.monotonic() - started:.1f} s")

    def _boot(self, *, with_disk: bool = True) -> None:
        self.timed("boot", lambda: self.machine.boot(with_disk=with_disk))
        self._namespace = namespace = network.Namespace(self.machine.pid)
        self._network.callback(namespace.close)
        api_port = urlsplit(self._stack.api.server).port
        assert api_port
        # The kubelet has the kubeconfig of a client on this machine; Pods have the Service.
        for address in (("127.0.0.1", api_port), (KUBERNETES_SERVICE, 443)):
            self._listen(address, network.to_loopback(api_port))
        server = NameServer(namespace.datagrams((_DNS, 53)), self._addresses_of)
        self._network.callback(server.close)

    def _listen(self, address: network.Address, dial: Callable[[], socket.socket]) -> None:
        assert self._namespace is not None
        relay = network.Relay(self._namespace.listen(address), dial)
        self._network.callback(relay.close)

    def _close_network(self) -> None:
        self._network.close()
        self._network = ExitStack()

    def _expose(self, namespace: str, service: str) -> str:
        found = self._stack.api.get(f"/api/v1/namespaces/{namespace}/services/{service}")
        address = str(found["spec"]["clusterIP"])
        self.machine.run("ip", "address", "replace", f"{address}/32", "dev", "lo")
        for port in found["spec"]["ports"]:
            self._listen((address, port["port"]), partial(self._to_pod, namespace, service, port["name"]))
        return address

    def _to_pod(self, namespace: str, service: str, port: str) -> socket.socket:
        """Connect to a ready Pod of the Service, asked for each time: Pods come and go."""
        assert self._namespace is not None
        for address, ports in self._ready_pods(namespace, service):
            if port in ports:
                return self._namespace.connect((address, ports[port]))
        raise StackError(f"Service {namespace}/{service} has no ready Pod")

    def _ready_pods(self, namespace: str, service: str) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield the address of each ready Pod of a Service, and its ports by name."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        for piece in self._stack.api.get(path, labelSelector=f"kubernetes.io/service-name={service}")["items"]:
            ports = {each["name"]: int(each["port"]) for each in piece["ports"] or []}
            for endpoint in piece["endpoints"] or []:
                if endpoint["conditions"].get("ready"):
                    yield str(endpoint["addresses"][0]), ports

    def _addresses_of(self, namespace: str, service: str) -> list[str]:
        """Return what the name of a Service leads to."""
        found = self._stack.api.find(f"/api/v1/namespaces/{namespace}/services/{service}")
        if found is None:
            return []
        address = str(found["spec"]["clusterIP"])
        return [each for each, _ in self._ready_pods(namespace, service)] if address == "None" else [address]
