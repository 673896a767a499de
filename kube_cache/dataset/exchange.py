"""The port between a download and other nodes: what it may take from them, and what it has for them.

The store calls it as objects come; `kube_cache.peers` is behind it. So the store learns no neighbour, and the peers no
folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from kube_cache.dataset.range_plan import RangePlan
from kube_cache.dataset.remote import Manifest


class Exchange(Protocol):
    """Of one download. Thread-safe. No method blocks, and none raises. id_: of an object in the store."""

    def plan(self, id_: str, path: Path) -> RangePlan | None:
        """Return who is to be asked for which range of an object that is fetched to `path`; None: the origin alone."""
        ...

    def landed(self, id_: str, path: Path) -> None:
        """Note that an object is whole, verified and at `path`: now, or from before the download."""
        ...

    def taken(self) -> Mapping[str, int]:
        """Return the bytes that came so far, by node, those of the origin under the empty name.

        Objects that are too small for the exchange are left out. Earlier downloads of the snapshot count as well.
        """
        ...

    def take_lies(self) -> Sequence[tuple[str, str]]:
        """Return the nodes that were banned since the last call, and what each did: other bytes than the origin's."""
        ...


class Join(Protocol):
    """Begins the exchange of one download. Within the context others are served from it, too."""

    def __call__(
        self, manifest: Manifest, token: str, *, expects_others: bool
    ) -> AbstractContextManager[Exchange | None]:
        """expects_others: listen for other nodes before the origin is asked; otherwise they are heard meanwhile."""
        ...
