"""Right before the patch the node is looked at: a Pod is not tied to a node that refuses it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.patch_gate import PatchGate
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import PatchGateInput, PatchGateResult
from kube_cache.errors import NodeNotReady, NodeUnfit
from kube_cache.kube.client import Json
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.mounts import DEFAULT_ROOT
from tests.telemetry.scrape import Changes

REF = PodRef("ml", "train", "uid-1")


class Api:
    """Has one Pod, and takes each patch."""

    def __init__(self, *gates: str) -> None:
        meta = {"namespace": "ml", "name": "train", "uid": "uid-1", "resourceVersion": "5"}
        meta["creationTimestamp"] = (datetime.now(UTC) - timedelta(seconds=40)).strftime("%Y-%m-%dT%H:%M:%SZ")
        containers = [{"name": "train", "resources": {"requests": {"nvidia.com/gpu": "8"}}}]
        self.pod: Json = {
            "metadata": meta,
            "spec": {"schedulingGates": [{"name": gate} for gate in gates], "containers": containers},
        }
        self.patches = 0

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> Json:
        return self.pod

    def patch(self, path: str, body: Json, **_: Any) -> Json:
        self.patches += 1
        self.pod["spec"]["schedulingGates"] = []
        return self.pod


async def release(
    api: Api, refusal: Exception | None, *, is_known: bool = True, pin: bool = True, **facts: Any
) -> PatchGateResult:
    def check(node: str, pod: Json) -> None:
        assert (node, pod) == ("gpu-1", api.pod)
        if refusal is not None:
            raise refusal

    activity = PatchGate(
        api,  # type: ignore[arg-type]
        Expectations(),
        lambda _uid: api.pod if is_known else None,
        cache_root=DEFAULT_ROOT,
        check_node=check,
        gpu_dollars_per_hour=4,
    )
    result: PatchGateResult = await ActivityEnvironment().run(
        activity.patch_gate, PatchGateInput(REF, "gpu-1", pin=pin, **facts)
    )
    return result


@pytest.mark.parametrize("is_known", [True, False], ids=["known to the watch", "not known yet"])
@pytest.mark.parametrize(("refusal", "final"), [(NodeUnfit("cordoned"), True), (NodeNotReady("silent"), False)])
async def test_no_pod_is_tied_to_a_node_that_refuses_it(refusal: Exception, final: bool, is_known: bool) -> None:
    api = Api(names.GATE)
    with pytest.raises(ApplicationError) as raised:
        await release(api, refusal, is_known=is_known)
    assert (raised.value.type, raised.value.non_retryable) == (type(refusal).__name__, final)
    assert api.patches == 0


async def test_a_fit_node_takes_the_pod() -> None:
    api = Api(names.GATE)
    assert (await release(api, None)).outcome == "released"
    assert api.patches == 1


async def test_a_pod_that_was_released_before_is_no_matter_of_its_node() -> None:
    assert (await release(Api(), NodeUnfit("cordoned"))).outcome == "already"


async def test_a_cold_release_asks_for_no_node() -> None:
    assert (await release(Api(names.GATE), NodeUnfit("cordoned"), pin=False)).outcome == "released"


async def test_a_release_is_counted_once_however_often_it_is_asked_for() -> None:
    """A second attempt, of this operator or another, finds the gate gone."""
    changes, api = Changes(), Api(names.GATE)
    facts = {"bytes": 100, "fetched_bytes": 70, "fetch_s": 45.0}
    outcomes = [(await release(api, None, **facts)).outcome for _ in range(3)]
    assert outcomes == ["released", "already", "already"]
    assert changes.of("kube_cache_releases_total", kind="miss") == 1
    assert changes.of("gpu_prewarm_success_total") == 1
    assert changes.of("kube_cache_released_bytes_total", kind="miss") == 70
    assert changes.of("kube_cache_released_bytes_total", kind="hit") == 30
    assert changes.of("kube_cache_pod_gate_seconds_count", kind="miss") == 1
    assert 39 < changes.of("kube_cache_pod_gate_seconds_sum", kind="miss") < 100
    assert changes.of("kube_cache_gpu_not_held_seconds_total") == pytest.approx(8 * 45)
    assert changes.of("kube_cache_gpu_not_held_dollars_total") == pytest.approx(8 * 45 / 3600 * 4)


async def test_a_hit_saves_no_gpu_time_and_a_cold_release_is_no_success() -> None:
    changes = Changes()
    await release(Api(names.GATE), None, hit=True, bytes=100)
    await release(Api(names.GATE), None, pin=False)
    assert changes.of("kube_cache_releases_total", kind="hit") == 1
    assert changes.of("kube_cache_releases_total", kind="cold") == 1
    assert changes.of("gpu_prewarm_success_total") == 1
    assert changes.of("kube_cache_released_bytes_total", kind="hit") == 100
    assert changes.of("kube_cache_gpu_not_held_seconds_total") == 0


async def test_a_release_that_is_refused_is_not_counted() -> None:
    changes = Changes()
    with pytest.raises(ApplicationError):
        await release(Api(names.GATE), NodeUnfit("cordoned"))
    assert not changes.any_of("kube_cache_releases_total")
