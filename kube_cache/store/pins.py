"""Who keeps a snapshot: Pods by their links on the disk, people by rows of the index. Compares both with the cluster.

Decides nothing about evictions: `removal` refuses what is pinned.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kube_cache import names
from kube_cache.errors import InvalidRequest
from kube_cache.store import current
from kube_cache.store.context import StoreContext
from kube_cache.store.layout import is_id
from kube_cache.store.pod_folders import is_uid

_log = structlog.get_logger("kube_cache.store")
_POD = names.pin_owner("")


@dataclass(frozen=True, slots=True)
class ReconciledPins:
    pinned: int
    """Number of pins that were made again."""
    unpinned: int
    """Number of pins that were removed."""
    wrong_links: list[str] = field(default_factory=list)
    """UIDs of the Pods one of whose links leads to another snapshot than their receipt names."""
    doubtful: list[str] = field(default_factory=list)
    """UIDs of Pods that have a pin and were not named."""


def unpin(context: StoreContext, digest: str, owner: str) -> bool:
    """Give a pin back, of a person or of a Pod's any placement. False if there was none."""
    of_index = context.index.unpin(digest, owner)
    is_pod = owner.startswith(_POD)
    return (is_pod and context.pods.unlink(owner.removeprefix(_POD), digest)) or of_index


def adopt(context: StoreContext) -> None:
    """Turn the Pods' pins in the index of an older version into links. Doing this twice does nothing."""
    digests_of: dict[str, list[str]] = defaultdict(list)
    for pin in context.index.pins():
        uid = pin.owner.removeprefix(_POD)
        if pin.owner.startswith(_POD) and is_uid(uid):
            digests_of[uid].append(pin.digest)
    for uid, digests in digests_of.items():
        context.pods.keep(uid, digests)
        for digest in digests:
            context.index.unpin(digest, names.pin_owner(uid))
    if digests_of:
        _log.info("pins of an older version became links", pods=len(digests_of))


def reconcile(
    context: StoreContext,
    receipts: Mapping[str, Sequence[str]],
    living: Collection[str],
    bound: Mapping[str, Collection[str]],
    grace_s: float,
    ended: Collection[str] | None = None,
) -> ReconciledPins:
    """Make lost links of released Pods again, and remove the pins of Pods that are gone.

    ended: UIDs whose pins go; the others that are not named are returned. None: the pins of all that are not named go.
    receipts: uid -> digests in the order of the receipt. living: UIDs that keep the pins that they have. bound: digest
    -> UIDs, from an operator that knows no receipts. grace_s: younger pins stay, because their Pod may be younger than
    the lists. Doing this twice changes nothing the second time.
    """
    pinned, wrong = _restore(context, receipts, bound)
    settled = receipts.keys() | {uid for uids in bound.values() for uid in uids}
    unpinned = 0
    doubtful: dict[str, None] = {}

    def must_go(uid: str, since: float) -> bool:
        if uid in living or not _is_old(since, grace_s):
            return False
        if ended is None or uid in ended:
            return True
        doubtful[uid] = None
        return False

    for folder in context.pods.folders():
        if folder.uid not in settled and must_go(folder.uid, folder.changed):
            unpinned += len(context.pods.digests(folder))
            context.pods.remove(folder.uid)
    for pin in context.index.pins():  # of a version without links, while they were made
        uid = pin.owner.removeprefix(_POD)
        if not pin.owner.startswith(_POD):
            continue
        if _is_old(pin.created, grace_s) if uid in settled else must_go(uid, pin.created):
            unpinned += context.index.unpin(pin.digest, pin.owner)
    current.sweep(context)
    return ReconciledPins(pinned, unpinned, wrong, list(doubtful))


def _restore(
    context: StoreContext, receipts: Mapping[str, Sequence[str]], bound: Mapping[str, Collection[str]]
) -> tuple[int, list[str]]:
    """Return the number of pins that were made again, and the UIDs of the Pods with a wrong link."""
    pinned = 0
    wrong: list[str] = []
    for uid, digests in receipts.items():
        try:
            restored = context.pods.restore(uid, digests)
        except InvalidRequest as error:  # a receipt is an annotation, which its owner can edit
            _log.warning("a receipt names no snapshot", uid=uid, error=error.message)
            continue
        pinned += restored.made
        if restored.wrong:
            _log.error("a Pod's link leads to another snapshot than its receipt names", uid=uid, places=restored.wrong)
            wrong.append(uid)
    unordered: dict[str, list[str]] = defaultdict(list)
    for digest, uids in bound.items():
        for uid in uids:
            if uid not in receipts and is_uid(uid) and is_id(digest):
                unordered[uid].append(digest)
    for uid, digests in unordered.items():
        pinned += context.pods.keep(uid, digests)
    return pinned, wrong


def _is_old(since: float, grace_s: float) -> bool:
    """Check an age. A clock that jumped back makes it negative: then the lists alone decide."""
    return not 0 <= time.time() - since < grace_s
