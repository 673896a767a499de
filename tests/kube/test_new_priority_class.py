"""A PriorityClass that the API server does not know yet is told and tried again later; no thread waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from kube_cache.errors import PriorityClassUnknown
from kube_cache.kube import seats
from kube_cache.kube.client import ApiError

POD: dict[str, Any] = {
    "metadata": {"namespace": "ml", "name": "one", "uid": "uid-1"},
    "spec": {"containers": [], "priority": 70, "priorityClassName": "team"},
}
OURS = f"{names.SEAT_PRIORITY_CLASS}-70"


class Kube:
    """Forbids Pods of a class that its admission does not know, and never hears of a new one."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.classes: list[str] = []

    def request(self, _method: str, _path: str) -> dict[str, Any]:
        return {"metadata": {"uid": "uid-of-the-namespace"}}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/priorityclasses"):
            self.classes.append(body["metadata"]["name"])
            return body
        name = body["spec"]["priorityClassName"]
        self.tried.append(name)
        raise ApiError(403, "Forbidden", f"no PriorityClass with name {name} was found")


def test_a_class_that_the_api_server_has_not_heard_of_is_asked_for_again_later_and_is_named() -> None:
    kube = Kube()
    seat = seats.build_seat(
        POD, name="seat", namespace="seats", workflow_id="w", prefer_nodes=[], exclude_nodes=[], image="pause"
    )
    with pytest.raises(PriorityClassUnknown, match=OURS) as caught:
        seats.create(kube, seat)  # type: ignore[arg-type]
    assert caught.value.retryable
    assert kube.classes == [OURS]
    assert kube.tried == ["team", OURS, OURS], "a seat of the lowest priority would be pushed out first"
