"""The prefetches that live, for the page: listed, and some of them asked, at most twice a minute while somebody looks.

One list and at most `MAX_SHOWN` queries for all viewers together. A prefetch runs no local activity, so that a query
does its history no harm (docs/design/local-activities.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchStatus
from kube_cache.temporal.prefetches import Listed, running_prefetches, statuses_of
from watcher.page.model import Prefetch
from watcher.page.questions import Questions
from watcher.page.words import public

_log = structlog.get_logger("kube_cache.page")
MAX_SHOWN: Final = 50
_EVERY_S: Final = 30.0
# Those first that may need somebody; one that is ready needs nobody.
_ORDER: Final = (PrefetchPhase.AWAITING_OPERATOR, PrefetchPhase.WAITING, PrefetchPhase.WARMING, PrefetchPhase.RESOLVING)


class Prefetches:
    """`look` may be called by any thread but the event loop's."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self.questions = Questions(self._ask, loop, clock, _EVERY_S)
        self.known: Sequence[Prefetch] = ()
        self.total = 0
        """How many live, shown or not."""

    def look(self) -> Sequence[Prefetch]:
        """Return what is known, and have it asked for again if that is due."""
        self.questions.ask_if_due()
        return self.known

    async def _ask(self) -> None:
        """List and ask once, on the event loop."""
        try:
            listed = [each async for each in running_prefetches(self._client)]
            listed.sort(key=_place)
            statuses = await statuses_of(self._client, [(each.namespace, each.name) for each in listed[:MAX_SHOWN]])
        except RPCError as error:
            _log.warning("cannot list the prefetches; the page shows the last answer", error=error.message)
        else:
            self.known, self.total = tuple(shown(status) for status in statuses), len(listed)


def _place(listed: Listed) -> tuple[int, str, str]:
    place = _ORDER.index(PrefetchPhase(listed.phase)) if listed.phase in _ORDER else len(_ORDER)
    return place, listed.namespace, listed.name


def shown(status: PrefetchStatus) -> Prefetch:
    return Prefetch(
        f"{status.namespace}/{status.name}",
        status.phase,
        public(status.message),
        public(", ".join(status.datasets)),
        status.percent,
        status.ready,
        status.wanted,
        status.expires_at,
    )
