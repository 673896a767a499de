"""The operator refuses what the cluster, or the Pod's namespace, does not allow; an agent refuses the bucket, too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.resolve_dataset import ResolveDataset
from activities.node.stream_dataset import StreamDataset
from kube_cache.contracts.common import PodRef, Snapshot
from kube_cache.contracts.node import StreamInput
from kube_cache.contracts.warm_pod import ResolveInput
from kube_cache.kube.client import ApiError
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings

URI = "s3://payroll/2026"


class Kube:
    """Has the parameters of the admission policies; none: there is no ConfigMap."""

    def __init__(self, **rules: str) -> None:
        self._rules = rules

    def request(self, _method: str, path: str, **_: Any) -> dict[str, Any]:
        assert path == "/api/v1/namespaces/kube-cache-system/configmaps/kube-cache-admission"
        if not self._rules:
            raise ApiError(404, "NotFound", "no such ConfigMap")
        return {"data": self._rules}


def resolve(origins: Origins, kube: Any = None) -> Any:
    kube = kube or Kube()
    pod = PodRef("default", "pod", "uid")
    return ActivityEnvironment().run(ResolveDataset(origins, kube).resolve_dataset, ResolveInput(pod, URI))


def stream(origins: Origins) -> Any:
    store: Any = SimpleNamespace(cache_id="disk", last_capacity=None)
    engine: Any = None
    stream = StreamDataset(store, engine, origins, concurrent_downloads=1)
    snapshot = Snapshot(URI, "0" * 64, 1, 1)
    return ActivityEnvironment().run(stream.stream_dataset, StreamInput("disk", snapshot))


@pytest.mark.parametrize("run", [resolve, stream])
def test_a_bucket_that_is_not_allowed_is_refused_for_good(run: Callable[[Origins], Any]) -> None:
    origins = Origins(OriginSettings(allowed_buckets="s3://models", anonymous=True))
    with pytest.raises(ApplicationError, match="does not allow the bucket 'payroll'") as caught:
        run(origins)
    origins.close()
    assert caught.value.type == "BucketNotAllowed"
    assert caught.value.non_retryable


@pytest.mark.parametrize("rules", [{"allowedDatasets": "s3://models"}, {"allowedDatasets.default": ""}])
def test_a_dataset_that_the_namespace_may_not_read_is_refused_though_no_admission_policy_saw_the_pod(
    rules: dict[str, str],
) -> None:
    origins = Origins(OriginSettings(anonymous=True))
    with pytest.raises(ApplicationError, match="namespace default may not name s3://payroll/2026") as caught:
        resolve(origins, Kube(**rules))
    origins.close()
    assert caught.value.type == "DatasetNotAllowed"
    assert caught.value.non_retryable
    assert "allowedDatasets.default" in str(caught.value), "the key that must be changed"
