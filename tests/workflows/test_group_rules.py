"""When a group gives its seats back, whose snapshot is outdated, and which words are shown."""

from __future__ import annotations

import pytest

from kube_cache.contracts.common import PodView, Snapshot
from kube_cache.contracts.group import GroupState, MemberState, Stage, WaitingPod
from kube_cache.errors import InvalidRequest
from workflows import group_rules
from workflows.warm_pod import options

HOLD_S = 600.0


def snapshot(uri: str, digest: str, resolved_at: float) -> Snapshot:
    return Snapshot(uri, digest * 64, 1, 1, resolved_at)


def state(*stages: str) -> GroupState:
    return GroupState({f"warm/ml/{number}/x": MemberState(8, stage, 0) for number, stage in enumerate(stages)})


def arrive(group: GroupState, name: str, *snapshots: Snapshot) -> None:
    group.members[name] = MemberState(8, Stage.ARRIVED, 0, group_rules.remember(group, snapshots))


def test_of_one_dataset_the_newest_snapshot_wins_and_of_another_each_may_have_its_own() -> None:
    group = GroupState()
    arrive(group, "old", snapshot("s3://a", "1", 1), snapshot("s3://own", "9", 1))
    arrive(group, "new", snapshot("s3://a", "2", 2))
    arrive(group, "other", snapshot("s3://b", "3", 0))
    assert group_rules.outdated(group) == ["old"]


def test_a_source_that_was_rolled_back_is_newer_than_what_it_was_meanwhile() -> None:
    group = GroupState()
    arrive(group, "first", snapshot("s3://a", "1", 1))
    arrive(group, "second", snapshot("s3://a", "2", 2))
    arrive(group, "first", snapshot("s3://a", "1", 3))
    assert group_rules.outdated(group) == ["second"]


def test_the_time_of_the_seats_counts_from_the_last_that_was_taken() -> None:
    group = state(Stage.SEATED, Stage.PLACING, Stage.PLACING)
    group_rules.note_seats(group, 3, 100)
    group.members["warm/ml/1/x"].stage = Stage.SEATED
    group_rules.note_seats(group, 3, 200)
    group.members["warm/ml/1/x"].stage = Stage.PLACING  # lost, and taken again: no progress
    group_rules.note_seats(group, 3, 300)
    ends_at = group_rules.hold_ends_at(group, "group/ml/a", HOLD_S)
    assert ends_at is not None
    assert 200 + HOLD_S <= ends_at <= 200 + 1.5 * HOLD_S


def test_a_group_with_all_its_seats_or_none_waits_as_long_as_it_takes() -> None:
    for group in (state(Stage.SEATED, Stage.ARRIVED), state(Stage.PLACING, Stage.PLACING)):
        group_rules.note_seats(group, 2, 100)
        assert group_rules.hold_ends_at(group, "group/ml/a", HOLD_S) is None


def test_groups_that_block_each_other_do_not_give_way_at_the_same_time() -> None:
    ends = []
    for name in ("group/ml/a", "group/ml/b"):
        group = state(Stage.SEATED, Stage.PLACING)
        group_rules.note_seats(group, 2, 100)
        ends.append(group_rules.hold_ends_at(group, name, HOLD_S))
    assert ends[0] != ends[1]
    assert 0.25 * HOLD_S <= group_rules.rest_s("group/ml/a", 1, HOLD_S) < group_rules.rest_s("group/ml/a", 9, HOLD_S)
    assert group_rules.rest_s("group/ml/a", 1000, HOLD_S) <= 4 * HOLD_S


@pytest.mark.parametrize(
    ("ready", "missing", "words"),
    [
        (7, [("t-3", "Warming")], "7 of 8 ready; waiting for t-3 (Warming)"),
        (6, [("t-3", "")], "6 of 8 ready; waiting for t-3 (not looked at yet), 1 that do not exist yet"),
        (3, [(f"t-{n}", "Placing") for n in range(5)], "t-2 (Placing), 2 more"),
    ],
    ids=["one", "not created", "many"],
)
def test_the_words_name_at_most_three_pods(ready: int, missing: list[tuple[str, str]], words: str) -> None:
    pods = [WaitingPod(f"warm/ml/{name}/x", name, phase) for name, phase in missing]
    assert group_rules.waiting(ready, 8, pods).endswith(words)


@pytest.mark.parametrize(
    ("group", "size", "words"),
    [
        ("train", "", "needs annotation kube-cache.openai.com/group-size"),
        ("", "8", "needs annotation kube-cache.openai.com/group:"),
        ("Train/1", "8", "write at most 63 of a-z, 0-9 and -"),
        ("train", "0", "from 1 to 1000"),
        ("train", "1001", "from 1 to 1000"),
        ("train", "eight", "from 1 to 1000"),
    ],
)
def test_a_wrong_annotation_is_refused_with_what_may_be_written(group: str, size: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        options.check(PodView("s3://b/x", group=group, group_size=size))


def test_a_group_with_its_size_is_accepted() -> None:
    options.check(PodView("s3://b/x", group="train-7", group_size="1000"))
