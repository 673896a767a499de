"""Inventory of the nodes that hold a dataset or fetch it, read from Temporal: each has an open `DatasetOnNode` entity.

The answer is a hint for placement (the disk has the last word), so it may be a moment old. A burst of Pods for one
dataset shares one query per 0.2 s, which spares the visibility store: a Pod that comes right after a warm finds it.
A long answer serves for 5 s, because a node more changes nothing where more are known than a seat can name. Where the
store is slow, at most two queries of a dataset are open, one that runs and one that follows it: else each Pod of a
burst would add one, and make it slower.

A Pod that goes to a node that holds its data needs no fresh answer: a holder that was known some seconds ago is as good
as one that is known since, and the check asks its disk. With many datasets each Pod of a burst would be the first to
ask for its own: such queries were a seventh of Temporal's CPU.

A popular dataset is on thousands of nodes. Of these the last 1,000 to have begun are read, one page: most hold
the newest snapshot, which is the one that a new Pod is given, and a seat names 64.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from temporalio.client import Client

from kube_cache import names
from kube_cache.temporal.executions import running
from kube_cache.temporal.holdings import Holding, holding_of

# Seconds that an answer serves other Pods. A burst creates its Pods within the shorter time.
_FRESH_S, _LONG_FRESH_S = 0.2, 5.0
# Seconds that the holders of an answer serve a Pod that wants any of them. What can go wrong meanwhile: an eviction,
# after which a Pod fetches the data again where it was.
_KNOWN_S = 10.0
# Nodes that hold a dataset from which on an answer is long: as many as a seat names at most (MAX_TERMS).
_LONG = 64
# Entities read for one answer: a page of Temporal's.
_MAX_READ = 1000


class _Query:
    """A list of Temporal's, which begins when the one before has ended."""

    def __init__(
        self, listed: Callable[[], Awaitable[list[Holding]]], before: asyncio.Task[list[Holding]] | None
    ) -> None:
        self._listed = listed
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self.answer = self._loop.create_task(self._run(before))
        # Whoever awaits it may be cancelled before it fails; then nobody is to be told.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())

    async def _run(self, before: asyncio.Task[list[Holding]] | None) -> list[Holding]:
        if before is not None:
            await asyncio.wait([before])
        self._began = self._loop.time()
        return await self._listed()

    def serves(self, now: float) -> bool:
        """Whether the answer may be given to a further Pod."""
        if self._began is None:
            return True
        if not self.answer.done():
            return now - self._began <= _FRESH_S
        if self.answer.cancelled() or self.answer.exception() is not None:
            return False
        return now - self._began <= (_LONG_FRESH_S if self._is_long() else _FRESH_S)

    def known(self, now: float) -> list[Holding]:
        """Return the answer, if it is there and not too old to choose a holder by; else nothing."""
        if self._began is None or not self.answer.done() or self.answer.cancelled():
            return []
        if self.answer.exception() is not None or now - self._began > (_LONG_FRESH_S if self._is_long() else _KNOWN_S):
            return []
        return self.answer.result()

    def _is_long(self) -> bool:
        return sum(holding.ready for holding in self.answer.result()) >= _LONG


class Inventory:
    """Belongs to one event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queries: dict[str, _Query] = {}

    async def of(self, uri: str) -> list[Holding]:
        """List nodes that hold the dataset or fetch it, of very many only some. Raises RPCError."""
        now = asyncio.get_running_loop().time()
        query = self._queries.get(uri)
        if query is None or not query.serves(now):
            before = query.answer if query is not None and not query.answer.done() else None
            self._queries = {
                key: value for key, value in self._queries.items() if value.serves(now) or value.known(now)
            }
            query = self._queries[uri] = _Query(partial(self._list, uri), before)
        # Shielded, because other Pods may await the same answer when this activity is cancelled.
        return await asyncio.shield(query.answer)

    def known(self, uri: str) -> list[Holding]:
        """Return what the last answer knew, asking nobody; nothing if that was long ago, or the next is on its way."""
        query = self._queries.get(uri)
        return [] if query is None else query.known(asyncio.get_running_loop().time())

    async def _list(self, uri: str) -> list[Holding]:
        holdings, read = [], 0
        async for entity in running(self._client, names.DATASET_ON_NODE, dataset=uri):
            if (holding := holding_of(entity)) is not None:
                holdings.append(holding)
            read += 1
            if read == _MAX_READ:
                break
        return holdings
