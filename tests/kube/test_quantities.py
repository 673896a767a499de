"""What a Pod asks of its node in numbers: as the scheduler counts, which the oracle of the seats proves at large."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.quantities import effective_requests, host_ports


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        pytest.param(
            {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]}, {"nvidia.com/gpu": "8"}, id="limit"
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"cpu": "250m"}}}, {"resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"resources": {"requests": {"cpu": "2"}}}],
            },
            {"cpu": "2"},
            id="init is the peak",
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"memory": "1Gi"}}}],
                "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"memory": "512Mi"}}}],
            },
            {"memory": str(1536 << 20)},
            id="a sidecar adds up",
        ),
        pytest.param({"containers": [{}], "resources": {"requests": {"cpu": "3"}}}, {"cpu": "3"}, id="of the Pod"),
        pytest.param(
            {"containers": [{}], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "250m"}},
            {"cpu": "3250m"},
            id="overhead on top",
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"nvidia.com/gpu": "2"}}}],
                "resources": {"requests": {"cpu": "1", "nvidia.com/gpu": "1"}},
            },
            {"cpu": "1", "nvidia.com/gpu": "2"},
            id="devices are never of the Pod",
        ),
    ],
)
def test_requests_are_counted_as_the_scheduler_counts_them(spec: dict[str, Any], asked: dict[str, str]) -> None:
    assert effective_requests(spec) == asked


def test_ports_of_the_node_are_those_of_containers_and_sidecars_each_once() -> None:
    spec = {
        "containers": [
            {"ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]},
            {"ports": [{"containerPort": 1, "hostPort": 8080, "protocol": "TCP"}]},
        ],
        "initContainers": [
            {"ports": [{"containerPort": 2, "hostPort": 2, "protocol": "UDP", "hostIP": "10.0.0.1"}],
             "restartPolicy": "Always"},
            {"ports": [{"containerPort": 3, "hostPort": 3}]},
        ],
    }  # fmt: skip
    assert host_ports(spec) == [
        {"containerPort": 2, "hostPort": 2, "protocol": "UDP", "hostIP": "10.0.0.1"},
        {"containerPort": 8080, "hostPort": 8080, "protocol": "TCP"},
    ]
