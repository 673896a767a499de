"""An answer of the API server reaches Temporal as it was: an error that is its own cause can be told to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, DefaultPayloadConverter
from temporalio.testing import ActivityEnvironment

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.kube import seats
from kube_cache.kube.client import ApiError, KubeClient
from tests.kube.fakes import release

META = {"namespace": "ml", "name": "one", "uid": "u", "resourceVersion": "1"}
POD = {"metadata": META, "spec": {"schedulingGates": [{"name": names.GATE}], "containers": []}}
AWAY = ApiError(0, "Unreachable", "the Kubernetes API does not answer")


class Away:
    """Knows the Pod, and takes no write."""

    def get_pod(self, *_: Any, **__: Any) -> Any:
        return POD

    def create(self, *_: Any) -> Any:
        raise AWAY

    def patch(self, *_: Any, **__: Any) -> Any:
        raise AWAY


def release_pod(client: KubeClient) -> None:
    release(client, PodRef("ml", "one", "u"), "gpu-1")


def create_seat(client: KubeClient) -> None:
    seats.create(client, POD)


@pytest.mark.parametrize("write", [release_pod, create_seat], ids=lambda write: write.__name__)
def test_an_error_of_the_api_server_is_told_to_temporal_in_its_words(write: Callable[[KubeClient], None]) -> None:
    with pytest.raises(Exception) as caught:
        ActivityEnvironment().run(as_application_errors(write), Away())
    failure = Failure()
    DefaultFailureConverter().to_failure(caught.value, DefaultPayloadConverter(), failure)
    assert failure.message == AWAY.message
    assert failure.application_failure_info.type == "ApiError"
