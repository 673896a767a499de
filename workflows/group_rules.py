"""Rules of a `PodGroup`: whose snapshots are outdated, how long seats are held, which words are shown. Pure functions.

Times are seconds since the epoch.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Sequence

from kube_cache import names
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.group import GroupState, Stage, WaitingPod

# In a message for people; naming more Pods makes it no clearer.
_MAX_NAMED = 3
# Shares of the time that seats are held: the longest that one group holds them beyond another, and the first rest.
_STAGGER = 0.5
_FIRST_REST = 0.25
_MAX_DOUBLINGS = 3


def key(snapshots: Sequence[Snapshot]) -> str:
    """Same for members with the same contents."""
    return ",".join(sorted(f"{snapshot.uri}@{snapshot.digest[:16]}" for snapshot in snapshots))


def remember(state: GroupState, snapshots: Sequence[Snapshot]) -> str:
    """Keep the contents of a member, of equal ones the newest; return their key."""
    contents = key(snapshots)
    known = {snapshot.uri: snapshot for snapshot in state.contents.get(contents, [])}
    if contents:
        state.contents[contents] = [
            max(snapshot, known.get(snapshot.uri, snapshot), key=lambda one: one.resolved_at) for snapshot in snapshots
        ]
    return contents


def arrived(state: GroupState) -> list[str]:
    return [name for name, member in state.members.items() if member.stage == Stage.ARRIVED]


def sizes(state: GroupState) -> Counter[int]:
    """How many members name each size."""
    return Counter(member.size for member in state.members.values())


def forget_unused(state: GroupState) -> None:
    used = {member.contents for member in state.members.values()}
    state.contents = {known: snapshots for known, snapshots in state.contents.items() if known in used}


def outdated(state: GroupState) -> list[str]:
    """Members that have arrived with another snapshot than the newest that any of them has of the same dataset."""
    newest: dict[str, Snapshot] = {}
    for snapshot in (each for name in arrived(state) for each in state.contents[state.members[name].contents]):
        known = newest.get(snapshot.uri)
        if known is None or snapshot.resolved_at > known.resolved_at:
            newest[snapshot.uri] = snapshot
    old = {
        contents
        for contents, snapshots in state.contents.items()
        if any(snapshot.uri in newest and snapshot.digest != newest[snapshot.uri].digest for snapshot in snapshots)
    }
    return [name for name in arrived(state) if state.members[name].contents in old]


# Seats that an incomplete group holds.


def note_seats(state: GroupState, needed: int, now: float) -> None:
    """Start the time anew when one more seat is held. A group with all its seats waits for data only."""
    held = sum(member.stage != Stage.PLACING for member in state.members.values())
    if held == 0 or held >= needed:
        state.held_most, state.held_since = 0, 0
    elif held > state.held_most:
        state.held_most, state.held_since = held, now


def hold_ends_at(state: GroupState, group_id: str, hold_s: float) -> float | None:
    """When the seats are to be given back; None while there is no need.

    Two groups that block each other made their last progress at the same time, so each adds a share of its own.
    """
    if not (state.held_since and hold_s):
        return None
    return state.held_since + hold_s * (1 + _STAGGER * _share(group_id, state.rounds))


def rest_s(group_id: str, rounds: int, hold_s: float) -> float:
    """Seconds without seats after the n-th round: the other group takes what it lacks within seconds."""
    return hold_s * _FIRST_REST * 2.0 ** min(rounds - 1, _MAX_DOUBLINGS) * (1 + _share(group_id, -rounds))


def _share(group_id: str, number: int) -> float:
    """From 0 to 1: the same each time that history is replayed, another for each group and round."""
    return zlib.crc32(f"{group_id}/{number}".encode()) % 1000 / 1000


# Words.


def waiting(ready: int, size: int, missing: Sequence[WaitingPod]) -> str:
    """missing: gated Pods that have not arrived, as far as they are known."""
    lacking = size - ready
    shown = [f"{pod.pod} ({pod.phase or 'not looked at yet'})" for pod in missing[: min(_MAX_NAMED, lacking)]]
    unknown = lacking - len(shown)
    if unknown > 0:
        shown.append(f"{unknown} more" if len(missing) > len(shown) else f"{unknown} that do not exist yet")
    return f"{ready} of {size} ready; waiting for {', '.join(shown)}"


def sizes_differ(found: Counter[int]) -> str:
    counted = ", ".join(f"{size} on {_pods(count)}" for size, count in found.most_common(_MAX_NAMED))
    return (
        f"annotation {names.GROUP_SIZE_ANNOTATION} differs within the group: {counted}; write the same number on each"
        " Pod of the group"
    )


def given_back(held: int, size: int, rest: float) -> str:
    return (
        f"only {held} of {size} Pods of the group have a node, and no other came; the seats are given back for"
        f" {rest:.0f} s, so that another group can be complete. What was fetched stays"
    )


def other_snapshot(running: Collection[str]) -> str:
    """running: digests of the Pods of the group that run."""
    held = ", ".join(digest[:12] for digest in sorted(running)[:_MAX_NAMED])
    return f"Pods of the group that run already hold snapshot {held}: the source has changed since"


RESOLVE_AGAIN = "another Pod of the group found a newer snapshot; resolving again"


def _pods(count: int) -> str:
    return "1 Pod" if count == 1 else f"{count} Pods"
