"""PriorityClasses of a test, which the API server's admission knows when they are handed out."""

from __future__ import annotations

import uuid

from tools.stack import pods
from tools.stack.api import ApiError, KubeApi
from tools.stack.control_plane import USER_NAMESPACE
from tools.stack.waiting import true

_PATH = "/apis/scheduling.k8s.io/v1/priorityclasses"


class PriorityClasses:
    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._made: list[str] = []

    def create(self, value: int, policy: str = "PreemptLowerPriority") -> str:
        """Create a class and return its name. Admission hears of it by a watch, so it is waited for."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self._made.append(name)
        body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        self._api.request("POST", _PATH, {**body, "value": value, "preemptionPolicy": policy})
        true(lambda: self._is_admitted(name), f"the class {name} is admitted")
        return name

    def delete(self, name: str) -> None:
        self._api.delete(f"{_PATH}/{name}")

    def close(self) -> None:
        for name in self._made:
            self.delete(name)

    def _is_admitted(self, name: str) -> bool:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"priorityClassName": name, "containers": [pods.CONTAINER]},
        }
        try:
            self._api.request("POST", f"/api/v1/namespaces/{USER_NAMESPACE}/pods", pod, dryRun="All")
        except ApiError as error:
            if error.status == 403:
                return False
            raise
        return True
