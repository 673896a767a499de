"""The Lease: one holder, another takes over when the holder falls silent, and at once when the holder resigns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_cache import names
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.kube.lease import Lease
from tools.stack.control_plane import SEATS_NAMESPACE


class FakeApi:
    """Leases as the API server keeps them: a resourceVersion guards each write."""

    def __init__(self) -> None:
        self.lease: dict | None = None
        self.version = 0
        self.before_write: Callable[[], None] = lambda: None

    def request(self, method: str, path: str) -> dict:
        if self.lease is None:
            raise ApiError(404, "NotFound", path)
        return self.lease

    def create(self, path: str, body: dict) -> dict:
        self.before_write()
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", path)
        return self._write(body)

    def replace(self, path: str, body: dict) -> dict:
        self.before_write()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", path)
        return self._write(body)

    def _write(self, body: dict) -> dict:
        self.version += 1
        meta = {**body["metadata"], "uid": "lease-uid", "resourceVersion": str(self.version)}
        self.lease = {**body, "metadata": meta}
        return self.lease


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("kube_cache.kube.lease.time.monotonic", lambda: now[0])
    return now


def lease(api: FakeApi, identity: str) -> Lease:
    return Lease(api, "seats", "operator", identity=identity, duration_s=10)  # type: ignore[arg-type]


def test_the_first_holds_it_and_the_second_waits(clock: list[float]) -> None:
    api = FakeApi()
    first, second = lease(api, "a"), lease(api, "b")
    assert first.try_hold()
    assert not second.try_hold()
    clock[0] += 9
    assert first.try_hold(), "it renews"
    clock[0] += 9
    assert not second.try_hold(), "a renewed lease begins anew"


def test_a_holder_that_falls_silent_is_followed(clock: list[float]) -> None:
    api = FakeApi()
    first, second = lease(api, "a"), lease(api, "b")
    first.try_hold()
    assert not second.try_hold()
    clock[0] += 10
    assert second.try_hold()
    assert not first.try_hold(), "it sees that it has lost"
    assert api.lease is not None
    assert api.lease["spec"]["leaseTransitions"] == 2


def test_a_holder_that_resigns_is_followed_at_once(clock: list[float]) -> None:
    api = FakeApi()
    first, second = lease(api, "a"), lease(api, "b")
    first.try_hold()
    first.release()
    assert second.try_hold()
    first.release()
    assert second.try_hold(), "one that does not hold it gives nothing back"


def test_a_process_that_restarts_under_its_name_has_it_back_at_once(clock: list[float]) -> None:
    api = FakeApi()
    assert lease(api, "a").try_hold()
    assert lease(api, "a").try_hold()


def test_of_two_that_write_at_once_one_holds_it(clock: list[float]) -> None:
    api = FakeApi()
    first, second = lease(api, "a"), lease(api, "b")
    won: list[bool] = []

    def rival() -> None:
        api.before_write = lambda: None
        won.append(second.try_hold())

    api.before_write = rival
    assert not first.try_hold()
    assert won == [True]


def test_the_lease_object_is_made_once_and_held_by_nobody(clock: list[float]) -> None:
    api = FakeApi()
    first, second = lease(api, "a"), lease(api, "b")
    assert first.owner_reference() is None
    for each in (first, second):
        each.ensure()
    assert first.owner_reference() == second.owner_reference()
    assert (first.owner_reference() or {})["uid"] == "lease-uid"
    assert second.try_hold()


def test_the_operators_rights_suffice_on_a_real_api_server(kube_client: KubeClient) -> None:
    first, second = (
        Lease(kube_client, SEATS_NAMESPACE, names.LEASE, identity=identity, duration_s=10) for identity in "ab"
    )
    first.ensure()
    owner = first.owner_reference()
    assert owner is not None
    assert first.try_hold()
    assert not second.try_hold()
    first.release()
    assert second.try_hold()
    assert second.owner_reference() == owner
    assert len(kube_client.cluster_uid()) == 36
