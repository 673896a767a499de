"""The demo's checks must be able to fail: each is shown the lie that it has to find."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.warm_pod import WarmPodResult
from tools.demo import checks
from tools.demo.checks import Actor
from tools.demo.plan import Dataset, Role
from tools.stack import pods
from tools.stack.audit import Write

DATA = Dataset("weights", {"a": 3, "b": 5})
SOURCE = {"a": "1" * 64, "b": "2" * 64}
OPERATOR = "operator"


def document(dataset: str, **spec: Any) -> dict[str, Any]:
    return {**copy.deepcopy(pods.gated("p", dataset, spec=spec)), "status": {}}


def released() -> Actor:
    created = document(DATA.uri)
    final = document(DATA.uri, schedulingGates=[], nodeName="gpu-1", affinity={"nodeAffinity": {}})
    final["metadata"]["annotations"][names.NODE_ANNOTATION] = "gpu-1"
    result = WarmPodResult("released", "gpu-1", hit=True)
    return Actor(Role(created, "", DATA), created, final, result)


def held(*, words: str = "InvalidRequest: dataset 'not a uri' has no scheme", gates: bool = True) -> Actor:
    created = document("not a uri")
    final = copy.deepcopy(created)
    if not gates:
        final["spec"]["schedulingGates"] = []
    final["status"]["conditions"] = [{"type": names.CONDITION, "reason": "AwaitingOperator", "message": words}]
    return Actor(Role(created, "", error="InvalidRequest"), created, final)


def release(user: str = OPERATOR) -> Write:
    return Write(user, "patch", "ml", "p", "", 200, {})


def test_the_truth_passes() -> None:
    actor = released()
    assert checks.bound_where_the_data_is(actor, SOURCE, SOURCE).passed
    assert checks.receipt_is_true(actor).passed
    assert checks.spec_untouched(actor).passed
    assert checks.released_once(actor, [release()], OPERATOR).passed
    assert checks.late_was_a_hit(actor, 0, had_it=True).passed
    assert checks.one_copy_a_node(DATA, {"gpu-1", "gpu-2"}, 16).passed
    assert checks.held_with_reason(held(), [{"reason": "InvalidRequest"}]).passed
    assert checks.nothing_left([], []).passed


@pytest.mark.parametrize(
    "on_disk",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"a": SOURCE["a"]}, id="a file is missing"),
        pytest.param({**SOURCE, "b": "3" * 64}, id="a byte differs"),
        pytest.param({**SOURCE, "c": "3" * 64}, id="a file too many"),
    ],
)
def test_a_disk_that_differs_from_the_source_fails(on_disk: dict[str, str]) -> None:
    assert not checks.bound_where_the_data_is(released(), on_disk, SOURCE).passed


def test_a_pod_that_is_not_bound_fails_and_says_what_it_says() -> None:
    actor = released()
    waiting = document(DATA.uri)
    waiting["status"]["conditions"] = [{"type": names.CONDITION, "reason": "Warming", "message": "7 %"}]
    check = checks.bound_where_the_data_is(replace(actor, final=waiting), {}, SOURCE)
    assert not check.passed
    assert "Warming: 7 %" in check.compared


def test_a_receipt_or_result_that_names_another_node_fails() -> None:
    actor = released()
    assert not checks.receipt_is_true(replace(actor, result=WarmPodResult("released", "gpu-2"))).passed
    assert not checks.receipt_is_true(replace(actor, result=None)).passed
    actor.final["metadata"]["annotations"][names.NODE_ANNOTATION] = "gpu-3"
    assert not checks.receipt_is_true(actor).passed


def test_a_container_that_was_touched_fails_and_is_named() -> None:
    actor = released()
    actor.final["spec"]["containers"][0]["image"] = "other"
    check = checks.spec_untouched(actor)
    assert not check.passed
    assert "containers" in check.compared


@pytest.mark.parametrize("users", [[], [OPERATOR, OPERATOR], ["somebody"]], ids=["never", "twice", "by another"])
def test_a_gate_that_was_not_removed_once_by_the_operator_fails(users: list[str]) -> None:
    assert not checks.released_once(released(), [release(user) for user in users], OPERATOR).passed


@pytest.mark.parametrize(
    ("actor", "events"),
    [
        pytest.param(held(gates=False), ["InvalidRequest"], id="gate is gone"),
        pytest.param(held(words="InvalidRequest: no"), ["InvalidRequest"], id="does not name what was written"),
        pytest.param(held(words="dataset 'not a uri'"), ["InvalidRequest"], id="does not name the error"),
        pytest.param(held(), [], id="no Event"),
    ],
)
def test_a_bad_pod_that_does_not_say_why_fails(actor: Actor, events: list[str]) -> None:
    assert not checks.held_with_reason(actor, [{"reason": reason} for reason in events]).passed


@pytest.mark.parametrize("served", [0, 15, 17, 24])
def test_bytes_that_are_not_one_copy_a_node_fail(served: int) -> None:
    assert not checks.one_copy_a_node(DATA, {"gpu-1", "gpu-2"}, served).passed


def test_a_latecomer_that_cost_bytes_or_went_elsewhere_fails() -> None:
    actor = released()
    assert not checks.late_was_a_hit(actor, 1, had_it=True).passed
    assert not checks.late_was_a_hit(actor, 0, had_it=False).passed
    assert not checks.late_was_a_hit(replace(actor, result=WarmPodResult("released", "gpu-1")), 0, had_it=True).passed


def test_hashes_are_of_the_files_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "snapshot" / "deep").mkdir(parents=True)
    (tmp_path / "snapshot" / "deep" / "file").write_bytes(b"abc")
    (tmp_path / "@current").symlink_to("snapshot")
    hashes = checks.hashes(tmp_path / "@current")
    assert hashes == {"deep/file": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert checks.hashes(tmp_path / "nowhere") == {}
