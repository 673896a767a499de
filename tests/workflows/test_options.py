"""The options on a Pod: which are refused, with which words, and which limit wins."""

from __future__ import annotations

import pytest

from kube_cache.contracts.common import PodView, Policy
from kube_cache.errors import InvalidRequest
from workflows.warm_pod import options


@pytest.mark.parametrize(
    ("view", "words"),
    [
        pytest.param(PodView(on_timeout="maybe"), "keep or release", id="on-timeout"),
        pytest.param(PodView(verify="hard"), "quick or full", id="verify"),
        pytest.param(
            PodView(neighbours="off"), "neighbours: 'off' is not an option; write allow or forbid", id="peers"
        ),
        pytest.param(PodView(max_gate_time="x"), "max-gate-time", id="max-gate-time"),
        pytest.param(PodView(priority="x"), "priority", id="priority"),
    ],
)
def test_a_bad_option_names_itself_and_its_choices(view: PodView, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        options.check(view)


def test_the_pods_gate_time_goes_before_the_operators() -> None:
    assert options.gate_time_s(PodView(max_gate_time="1m"), Policy(max_gate_time_s=5)) == 60
    assert options.gate_time_s(PodView(), Policy(max_gate_time_s=5)) == 5
    assert options.gate_time_s(PodView(), Policy()) is None
