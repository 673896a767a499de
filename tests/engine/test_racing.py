"""A slow connection is raced by a second one, and the range changes hands."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from kube_cache.dataset.transfer import RemoteObject
from kube_cache.errors import SourceUnavailable
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import assert_whole, is_range

pytestmark = pytest.mark.slow


def test_a_dripping_connection_is_raced(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    """It delivers a byte now and then, so no timeout ever ends it: a second connection does."""
    patient = make_fetcher(origin.endpoint, stall_timeout_s=30)
    origin.script = faults.times(1, faults.drip(0.2, head=False), when=is_range)
    started = time.monotonic()
    patient.fetch([remote])
    assert_whole(patient)
    assert time.monotonic() - started < 20


def test_two_racing_connections_do_not_leave_the_range_to_each_other_for_ever(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    """Silent for longer than it takes to send a second connection after the first: it ends all the same."""
    slow = make_fetcher(origin.endpoint, stall_timeout_s=2.1, give_up_s=1)
    origin.script = lambda request: faults.stall(None, 0) if request.range else None
    with pytest.raises(SourceUnavailable, match="gave up after"):
        slow.fetch([remote])
