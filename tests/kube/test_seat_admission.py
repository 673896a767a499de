"""What admission makes of a seat is compared with what was asked, as the scheduler would read it."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.seat_admission import added_gates, differences


def seat(requests: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"resources": {"requests": requests or {"cpu": "1"}}}], **spec}}


EXISTS = {"operator": "Exists"}
GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        pytest.param(seat({"cpu": "1000m"}), "", id="the same, written otherwise"),
        pytest.param(seat({"cpu": "2"}), "cpu 1 became 2", id="more"),
        pytest.param(
            seat({"cpu": "1", "memory": "1Gi"}), "memory 0 became 1073741824", id="one that was not asked for"
        ),
        pytest.param(seat(nodeSelector={"pool": "b"}), "nodeSelector was changed", id="node selector"),
        pytest.param(seat(tolerations=[GPU]), "tolerations were changed", id="toleration"),
        pytest.param(seat(schedulerName="default-scheduler"), "", id="the default scheduler by name"),
        pytest.param(seat(schedulerName="other"), "schedulerName was changed", id="another scheduler"),
    ],
)
def test_what_the_scheduler_would_read_otherwise_is_told(stored: dict[str, Any], words: str) -> None:
    assert differences(seat(), stored) == ([words] if words else [])


def test_a_toleration_that_another_covers_is_no_change() -> None:
    assert differences(seat(tolerations=[EXISTS]), seat(tolerations=[EXISTS, GPU])) == []
    assert differences(seat(tolerations=[EXISTS, GPU]), seat(tolerations=[EXISTS])) == []


def test_a_gate_that_a_queue_puts_on_the_seat_is_named() -> None:
    assert added_gates(seat(), seat(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])) == [
        "kueue.x-k8s.io/admission"
    ]
