"""What a heartbeat says of the connections' time: shares of the last seconds, not of all that was ever fetched."""

from __future__ import annotations

from activities.node.recent_work import RecentWork
from kube_cache.dataset.transfer import Timings
from kube_cache.engine.totals import Totals


def test_the_shares_are_of_the_last_seconds_alone() -> None:
    totals, now = [Totals()], [0.0]
    work = RecentWork(lambda: totals[0], lambda: now[0])
    assert work.sample() == ({}, {})
    totals[0] = Totals(timings=Timings(network_s=100.0))
    now[0] = 10
    assert work.sample() == ({"network": 1.0}, {})
    totals[0] = Totals(timings=Timings(network_s=101.0, decrypt_s=3.0))
    totals[0].retries["throttled"] = 2
    for now[0] in (20, 30, 40):  # the sample of second 10 is the newest that is old enough at second 30
        shares, retries = work.sample()
        if now[0] == 20:
            assert (shares, retries) == ({"network": 0.97, "decrypt": 0.03}, {"throttled": 2})
        if now[0] == 30:
            assert (shares, retries) == ({"network": 0.25, "decrypt": 0.75}, {"throttled": 2})
    assert (shares, retries) == ({}, {}), "nothing has ended for a window"
