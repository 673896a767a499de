"""The demo's plan: the README's Pod is played, and a demo of any size can end."""

from __future__ import annotations

import pytest

from tools.demo import plan

GPU = "nvidia.com/gpu"


def gpu_count(role: plan.Role) -> int:
    return int(role.document["spec"]["containers"][0]["resources"]["limits"].get(GPU, 0))


def test_the_readmes_pod_asks_for_what_the_demo_uploads() -> None:
    default = plan.create({})
    first = default.roles[0]
    assert first.document == plan.readme_pod()
    assert first.annotation == default.large.uri
    assert "schedulingGates" not in first.document["spec"], "admission adds the gate"


@pytest.mark.parametrize("total", [1 << 20, 7_654_321, 1 << 30])
def test_uneven_sizes_add_up_and_differ(total: int) -> None:
    sizes = list(plan.uneven(total).values())
    assert sum(sizes) == total
    assert len(set(sizes)) == len(sizes) == 8
    assert min(sizes) > 0


def test_the_default_plays_one_pod_of_each_kind() -> None:
    roles = plan.create({}).roles
    assert [role.name for role in roles] == [
        "gpt-4-serving",
        "trainer",
        "evals-1",
        "safety",
        "typo",
        "lost",
        "latecomer",
    ]
    assert {role.name: role.error for role in roles if role.dataset is None} == {
        "typo": "DatasetNotFound",
        "lost": "DatasetNotFound",
    }


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 30])
def test_as_many_pods_as_asked_for_with_names_of_their_own(count: int) -> None:
    roles = plan.create({"DEMO_PODS": str(count)}).roles
    assert len(roles) == count + 1
    assert len({role.name for role in roles}) == len(roles)


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [6, 100])
def test_every_pod_finds_gpus_wherever_the_scheduler_puts_the_small_ones(nodes: int, count: int) -> None:
    roles = plan.create({"DEMO_NODES": str(nodes), "DEMO_PODS": str(count)}).roles
    whole, trainer, *others = [role for role in roles if role.dataset]
    small = sum(gpu_count(role) for role in others)
    assert gpu_count(whole) == plan.GPUS
    # The emptiest of the other nodes holds at most the average number of small Pods.
    assert small <= (plan.GPUS - gpu_count(trainer)) * (nodes - 1)


@pytest.mark.parametrize(("name", "value"), [("DEMO_MIB", "0"), ("DEMO_NODES", "none"), ("DEMO_PODS", "-1")])
def test_a_size_that_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(plan.PlanError, match=f"{name}={value}"):
        plan.create({name: value})
