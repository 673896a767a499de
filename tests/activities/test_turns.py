"""Turns: one of a group at a time, others beside it, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from activities.cluster.turns import Turns


async def test_a_group_is_served_one_by_one_and_other_groups_beside_it() -> None:
    turns, at_once, seen = Turns(60), 0, []

    async def use(group: str) -> None:
        nonlocal at_once
        async with turns.take(group):
            at_once += 1
            seen.append(at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(use("a") for _ in range(5)))
    assert seen == [1] * 5
    inside = asyncio.Barrier(4)

    async def meet(group: str) -> None:
        async with turns.take(group):
            await inside.wait()

    await asyncio.wait_for(asyncio.gather(meet("a"), meet("b"), meet(""), meet("")), 90)
    assert turns._locks == turns._users == {}


async def test_who_has_waited_long_enough_goes_on_and_takes_nobodys_turn() -> None:
    turns = Turns(0.01)
    async with turns.take("a"):
        async with turns.take("a"):
            pass
        assert turns._locks["a"].locked()
    assert turns._locks == {}
