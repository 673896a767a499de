"""What `kube-cache retry` and its like write: on a gated Pod only, and never over what somebody writes meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from kube_cache.errors import Conflict
from kube_cache.kube.client import ApiError
from kube_cache.kube.user_annotations import NoSuchPod, NotGated, write_annotation
from workflows.warm_pod.options import next_action


class Kube:
    """One Pod; `conflicts` patches meet a Pod that somebody has just written."""

    def __init__(self, *, gated: bool = True, conflicts: int = 0, **annotations: str) -> None:
        gates = [{"name": names.GATE}] if gated else []
        self.pod: dict[str, Any] = {
            "metadata": {"uid": "u", "resourceVersion": "1", "annotations": annotations},
            "spec": {"schedulingGates": gates},
        }
        self.conflicts = conflicts

    def get_pod(self, _namespace: str, name: str) -> Any:
        if name != "one":
            raise ApiError(404, "NotFound", "no such Pod")
        return self.pod

    def patch(self, _path: str, body: Any) -> Any:
        meta = self.pod["metadata"]
        assert body["metadata"]["uid"] == meta["uid"]
        if self.conflicts:
            self.conflicts -= 1
            meta["annotations"][names.ACTION_ANNOTATION] = "retry"
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        if body["metadata"]["resourceVersion"] != meta["resourceVersion"] or self.conflicts:
            raise ApiError(409, "Conflict", "the object has been modified")
        meta["annotations"].update(body["metadata"]["annotations"])
        return self.pod


def retry(kube: Any, name: str = "one") -> str:
    return write_annotation(kube, "ml", name, names.ACTION_ANNOTATION, lambda present: next_action("retry", present))


def test_a_second_retry_is_written_so_that_it_acts_again() -> None:
    kube = Kube()
    assert [retry(kube), retry(kube), retry(kube)] == ["retry", "retry-2", "retry-3"]
    assert kube.pod["metadata"]["annotations"] == {names.ACTION_ANNOTATION: "retry-3"}


def test_what_somebody_writes_meanwhile_is_seen_before_the_next_try() -> None:
    assert retry(Kube(conflicts=1)) == "retry-2"
    with pytest.raises(Conflict, match="try again"):
        retry(Kube(conflicts=99))


def test_a_pod_without_our_gate_or_without_a_trace_is_refused() -> None:
    with pytest.raises(NotGated, match="kube-cache why ml/one"):
        retry(Kube(gated=False))
    with pytest.raises(NoSuchPod, match="ml/two"):
        retry(Kube(), "two")
