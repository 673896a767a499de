"""The real node of the tests is one: its kubelet runs containers, which reach what a Pod in a cluster reaches."""

from __future__ import annotations

from tests.node.workloads import ended, running, shell
from tools.node.node import RealNode
from tools.stack.pods import Pods


def test_a_pod_runs_and_reaches_the_api_server_and_services_by_name(node: RealNode, pods: Pods) -> None:
    script = """
      test "$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT" = 10.0.0.1:443
      nslookup kubernetes.default.svc.cluster.local | grep 'Address.*10[.]0[.]0[.]1$'
      nc -w 5 kubernetes.default.svc 443 < /dev/null
      test -s /var/run/secrets/kubernetes.io/serviceaccount/token
      echo all found
    """
    pods.create(shell("one", script))
    phase = ended(pods, "one")
    logs = node.logs(pods.namespace, "one", "main")
    assert phase == "Succeeded", logs
    assert "all found" in logs


def test_containers_outlive_kubelet_and_containerd_and_a_power_cut_ends_them(node: RealNode, pods: Pods) -> None:
    pods.create(shell("long", "sleep 3600", restartPolicy="Always"))
    first = running(pods, "long", 0)["containerID"]
    node.kill_kubelet()
    node.kill_containerd()
    node.containerd.start()
    node.start_kubelet()
    assert running(pods, "long", 0)["containerID"] == first
    node.reboot()
    assert running(pods, "long", 1)["containerID"] != first
