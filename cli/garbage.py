"""Python's garbage collector, set for a process that holds much and throws away little circles of much: the operator.

Imported modules stay for good, and the collector's repeated passes over them were a measurable part of a burst. So they
are set aside. But the SDK's object of a workflow is a circle, which only the collector frees: some 20 KiB of an entity
that left the cache, more of a Pod. A workflow that had lived for minutes is in the oldest generation by then, so that
generation must be looked at now and then. With the thresholds (20,000, 20, 100) it was not before 200,000 workflows had
ended, gigabytes later: 3,000 evicted entities took 56 MiB, and take 22 now, of which the last thousand are most.
"""

from __future__ import annotations

import gc

# An entity is some 200 objects, so the thresholds are at about 50, 500 and 1,000 workflows. The last pass takes 0.2 s.
_THRESHOLDS = (10_000, 10, 2)


def tune() -> None:
    """To be called when everything is imported and made that stays."""
    gc.collect()
    gc.freeze()
    gc.collect()  # a full pass waits until a quarter more lives than after the last one, so that one must know of no module
    gc.set_threshold(*_THRESHOLDS)
