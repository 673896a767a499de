"""Says what a model must offer to be asked for plans and to be scored: fit, then forecast.

The two steps are apart because a heavy model fits once a day and forecasts each few minutes. Both get a series that
ends where knowledge ends, so that no model can see what it will be scored on. A model forecasts the copies to have
ready, which is more than the copies that are likely to be used: how much more is the model's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kube_cache.forecast.series import Series


class Forecaster(Protocol):
    def forecast(self, history: Series, positions: range) -> Sequence[float]:
        """Return the copies to have ready in each of the slots `positions`, which lie past the end of the history.

        NaN where the forecaster cannot tell; nothing is planned there. Pure: the same history, the same answer.
        """


class Model(Protocol):
    @property
    def name(self) -> str: ...

    def fit(self, history: Series, lead: int) -> Forecaster:
        """Return a forecaster for what follows the history.

        lead: slots from the last one known to the one planned, at least 1.
        """
