"""The first steps of a Pod's workflow wait while starts are due; nothing else does."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from temporalio.testing import ActivityEnvironment

from activities.starts_first import StartsFirst
from kube_cache import names


@pytest.mark.parametrize(
    ("activity", "is_local", "yields"),
    [
        (names.RESOLVE_DATASET, True, True),
        (names.RESOLVE_DATASET, False, False),  # its worker's slot is not one that a start could have
        (names.CREATE_SEAT, True, True),
        (names.PATCH_GATE, True, False),
    ],
)
async def test_only_what_comes_before_a_seat_yields_and_before_it_begins(
    activity: str, is_local: bool, yields: bool
) -> None:
    done: list[str] = []

    async def yield_to_starts() -> None:
        done.append("yielded")

    async def execute_activity(_input: object) -> None:
        done.append("executed")

    env = ActivityEnvironment()
    env.info = dataclasses.replace(env.info, activity_type=activity, is_local=is_local)
    following = SimpleNamespace(execute_activity=execute_activity)
    interceptor = StartsFirst(yield_to_starts).intercept_activity(following)  # type: ignore[arg-type]
    await env.run(interceptor.execute_activity, SimpleNamespace(args=[]))  # type: ignore[arg-type]
    assert done == (["yielded", "executed"] if yields else ["executed"])
