"""Which nodes hold which snapshots, by Temporal's list of the open `DatasetOnNode` entities.

Asked at most once a minute for all viewers together, and only while somebody looks. A cluster of 5,000 nodes has tens
of thousands of entities, so the list is cut, the next one comes the later the longer it took, and the event loop gets
its turn after each few entities: no release waits for the page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.temporal.executions import running
from kube_cache.temporal.holdings import holding_of
from watcher.page.model import Holding
from watcher.page.questions import Questions
from watcher.page.words import public

_log = structlog.get_logger("kube_cache.page")
MAX_ENTITIES: Final = 20_000
_EVERY_S: Final = 60.0
# Entities between two turns of the event loop: a fraction of a millisecond.
_AT_ONCE: Final = 20

ByNode = Mapping[str, list[Holding]]


class Holdings:
    """`look` may be called by any thread but the event loop's."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = clock
        self.questions = Questions(self._ask, loop, clock, _EVERY_S)
        self.by_node: ByNode = {}
        self.at = 0.0
        """When the list was made; 0 = never."""
        self.error = ""
        self.is_cut = False
        """There are more entities than were read."""

    def look(self) -> ByNode:
        """Return what is known, and have it asked for again if that is due."""
        self.questions.ask_if_due()
        return self.by_node

    async def _ask(self) -> None:
        """List once, on the event loop."""
        found, read = dict[str, list[Holding]](), 0
        try:
            async for entity in running(self._client, names.DATASET_ON_NODE):
                read += 1
                if read > MAX_ENTITIES:
                    break
                _note(found, entity)
                if read % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        except RPCError as error:
            self.error = error.message
            _log.warning("cannot list who holds what; the page shows the last answer", error=error.message)
        else:
            self.by_node, self.error, self.at, self.is_cut = found, "", self._now(), read > MAX_ENTITIES


def _note(found: dict[str, list[Holding]], entity: WorkflowExecution) -> None:
    if (held := holding_of(entity)) is not None:
        shown = Holding(public(held.dataset), held.digest, held.bytes, ready=held.ready)
        found.setdefault(held.node, []).append(shown)
