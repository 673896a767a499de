"""A plan stays within the budget and within what was ever seen, ends by itself, and says why it is small."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.forecast.condition import State
from kube_cache.forecast.gate import Mode, Verdict
from kube_cache.forecast.planner import Budget, Demand, Planned, plan, share
from kube_cache.forecast.replay import Score
from kube_cache.forecast.series import MISSING, Series
from tests.forecast.made import HOUR, series

OPEN = Verdict(Mode.ACTS, State.USABLE, "acts: it pays", Score())
CLOSED = Verdict(Mode.FORECAST_ONLY, State.USABLE, "forecast-only: it does not pay", Score())
BROKEN = Verdict(Mode.FORECAST_ONLY, State.EMPTY, "forecast-only: no demand was measured", Score())
AMPLE = Budget(max_copies=1000, max_bytes=10**18)
GB = 10**9


class Says:
    """A model that always says the same."""

    name = "says"

    def __init__(self, *copies: float) -> None:
        self.copies = list(copies)

    def fit(self, _history: Series, _lead: int) -> Says:
        return self

    def forecast(self, _history: Series, positions: range) -> Sequence[float]:
        return [self.copies[position % len(self.copies)] for position in positions]


def planned(
    says: float, values: Sequence[float] = (0, 10, 2), verdict: Verdict | None = OPEN, budget: Budget = AMPLE
) -> Planned:
    demand = Demand("s3://models/a", GB, series(values))
    return plan([demand], {"s3://models/a": verdict} if verdict else {}, Says(says), budget, 2)[0]


def test_idle_copies_are_planned_beyond_those_in_use_and_only_for_their_slot() -> None:
    found = planned(6.2)
    history = series([0, 10, 2])
    assert (found.copies, found.wanted, found.reason) == (5, 5, "")
    assert found.ready_at == history.time(2) + 2 * HOUR
    assert found.until == found.ready_at + HOUR


def test_after_the_peak_nothing_more_is_asked_for() -> None:
    history = series([4.0] * 10)
    demand = Demand("a", GB, history)
    copies = [plan([demand], {"a": OPEN}, Says(4, 4, 6, 6, 4, 1), AMPLE, lead)[0].copies for lead in range(1, 9)]
    assert copies == [0, 0, 0, 0, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("says", "verdict", "told"),
    [
        pytest.param(6, None, "judge its history first", id="not judged"),
        pytest.param(6, CLOSED, "it does not pay", id="gate closed"),
        pytest.param(6, BROKEN, "no demand was measured", id="no history"),
        pytest.param(math.nan, OPEN, "cannot tell how many copies are needed then (it said nan)", id="NaN"),
        pytest.param(math.inf, OPEN, "(it said inf)", id="infinite"),
        pytest.param(-3, OPEN, "(it said -3)", id="negative"),
    ],
)
def test_what_cannot_be_acted_on_moves_nothing_and_says_so(says: float, verdict: Verdict | None, told: str) -> None:
    found = planned(says, verdict=verdict)
    assert found.copies == 0
    assert told in found.reason


def test_a_closed_gate_still_shows_the_forecast() -> None:
    assert (planned(6, verdict=CLOSED).forecast, planned(6, verdict=CLOSED).wanted) == (6, 4)


def test_a_forecast_far_beyond_all_that_was_ever_used_is_cut_and_says_so() -> None:
    found = planned(1e12)
    assert found.copies == 15 - 2
    assert "more than 1.5 times what was ever in use (10)" in found.reason


def test_the_copies_in_use_are_those_of_the_last_measurement() -> None:
    assert planned(6, values=[0, 10, 4, MISSING]).copies == 2


def test_a_budget_of_copies_is_shared_by_need_and_told() -> None:
    demands = [Demand(name, GB, series([0.0, 20.0, 0.0])) for name in "ab"]
    verdicts = dict.fromkeys("ab", OPEN)
    found = plan(demands, verdicts, Says(12), Budget(10, 10**18), 1)
    assert [each.copies for each in found] == [5, 5]
    assert found[0].reason.startswith("5 of 12 copies: the budget of 10 idle copies")


def test_a_dataset_too_large_for_what_is_left_leaves_it_to_others() -> None:
    assert share([3, 3], [60, 10], Budget(100, 100)) == [1, 3]


SIZES = st.integers(1, 50)


@given(st.lists(st.tuples(st.integers(0, 30), SIZES), max_size=6), st.integers(0, 40), st.integers(0, 400))
def test_shares_stay_within_the_budget_and_leave_nothing_that_fits(
    wishes: list[tuple[int, int]], copies: int, size: int
) -> None:
    wanted, sizes = [each for each, _ in wishes], [each for _, each in wishes]
    granted = share(wanted, sizes, Budget(copies, size))
    used = sum(each * one for each, one in zip(granted, sizes, strict=True))
    assert all(0 <= got <= asked for got, asked in zip(granted, wanted, strict=True))
    assert sum(granted) <= copies
    assert used <= size
    left_out = [one for got, asked, one in zip(granted, wanted, sizes, strict=True) if got < asked]
    assert sum(granted) == copies or all(one > size - used for one in left_out)


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([OPEN, CLOSED, BROKEN])), max_size=5
    ),
    st.lists(st.floats(0, 1e4) | st.just(MISSING), max_size=5),
    st.integers(0, 40),
)
def test_whatever_a_model_says_no_plan_is_wild(says: list, values: list[float], copies: int) -> None:
    budget = Budget(copies, 20 * GB)
    for number, (said, verdict) in enumerate(says):
        demand = Demand(str(number), GB, series(values))
        found = plan([demand], {str(number): verdict}, Says(said), budget, 1)[0]
        highest = max((value for value in values if not math.isnan(value)), default=0)
        assert 0 <= found.copies <= min(copies, 20, math.ceil(1.5 * highest))
        assert found.copies == found.wanted or found.reason
        assert found.copies == 0 or verdict is OPEN
