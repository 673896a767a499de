"""Reads the folders of links that Pods have on the disk: what each Pod mounts, and so pins.

Beside the links `<n>` to its snapshots, a Pod's folder may hold `current-<n>`, a link to a dataset's `@current`, which
pins what that names; `pin-<digest>`, the pin of an older version, which knew no places; and `.attempt`, a link whose
content is the number of the placement that made the folder. Changes nothing: `pod_links` does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kube_cache.store.beneath import StorePath
from kube_cache.store.disk import Disk
from kube_cache.store.layout import Layout, is_id

ATTEMPT, CURRENT, PIN = ".attempt", "current-", "pin-"
"""Name of the placement's link, and beginnings of the names of links beside the numbered ones."""
_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TARGET: Final = re.compile(r"\.\./\.\./snapshots/([0-9a-f]{64})/data")
_CURRENT_TARGET: Final = re.compile(r"(?:\.\./)+snapshots/([0-9a-f]{64})/data")
# A folder that changed so recently may change again within one tick of the file system's clock, and look the same.
_SETTLED_S = 2.0


def is_uid(text: str) -> bool:
    """Check whether the text has the form that the API server gives a Pod's uid."""
    return _UID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class PodFolder:
    """The links of one Pod, as they are on the disk."""

    uid: str
    attempt: int = 0
    """Placement that made the folder; 0: unknown."""
    changed: float = 0.0
    """Seconds since the epoch when a link was made or removed last."""
    places: Mapping[int, str] = field(default_factory=dict)
    """n -> digest; an empty digest: the link leads to no snapshot."""
    unplaced: frozenset[str] = frozenset()
    """Digests that are pinned without a place."""
    currents: Mapping[int, str] = field(default_factory=dict)
    """n -> path of an `@current`, relative to the folder."""


class PodFolders:
    """Thread-safe. What is read without the lock of `PodLinks` may be of a moment ago."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._seen: dict[str, tuple[tuple[int, int], PodFolder]] = {}
        """uid -> (inode and mtime of the folder, its links), of folders that have settled."""

    def read(self, uid: str) -> PodFolder | None:
        """Read the links of a Pod; None if it has no folder."""
        folder = self._layout.pods / uid
        try:
            return self._read(uid, self._disk.stat(folder))
        except FileNotFoundError:
            return None

    def folders(self) -> list[PodFolder]:
        """Read the links of all Pods: 10 µs for a Pod whose folder was read before and has not changed, else 80 µs."""
        found: list[PodFolder] = []
        seen: dict[str, tuple[tuple[int, int], PodFolder]] = {}
        try:
            entries = self._disk.entries(self._layout.pods)
        except FileNotFoundError:  # a cache of an older version
            entries = []
        for name, now in entries:
            if not is_uid(name):
                continue
            key = (now.st_ino, now.st_mtime_ns)
            known = self._seen.get(name)
            try:
                folder = known[1] if known and known[0] == key else self._read(name, now)
            except FileNotFoundError:
                continue
            found.append(folder)
            if 0 <= now.st_mtime < time.time() - _SETTLED_S:
                seen[name] = (key, folder)
        self._seen = seen
        return found

    def uids(self) -> set[str]:
        """UIDs of the Pods that have a folder."""
        return {folder.uid for folder in self.folders()}

    def _read(self, uid: str, now: os.stat_result) -> PodFolder:
        base = self._layout.pods / uid
        attempt = 0
        places: dict[int, str] = {}
        currents: dict[int, str] = {}
        unplaced: set[str] = set()
        for name in self._disk.names(base):
            content = self._read_link(base / name)
            if name == ATTEMPT:
                attempt = int(content) if content.isdecimal() else 0
            elif name.isdecimal():
                target = _TARGET.fullmatch(content)
                places[int(name)] = target[1] if target else ""
            elif name.startswith(CURRENT) and name.removeprefix(CURRENT).isdecimal():
                currents[int(name.removeprefix(CURRENT))] = content
            elif name.startswith(PIN) and is_id(name.removeprefix(PIN)):
                unplaced.add(name.removeprefix(PIN))
        return PodFolder(uid, attempt, now.st_mtime, places, frozenset(unplaced), currents)

    def digests(self, folder: PodFolder) -> set[str]:
        """Digests that the folder pins, also what an `@current` names that it leads to."""
        pinned = {digest for digest in folder.places.values() if digest} | folder.unplaced
        for path in folder.currents.values():
            if named := _CURRENT_TARGET.fullmatch(
                self._read_link(os.path.normpath(f"{self._layout.pods}/{folder.uid}/{path}"))
            ):
                pinned.add(named[1])
        return pinned

    def _read_link(self, path: StorePath) -> str:
        """Read a symbolic link; empty if there is none."""
        try:
            return self._disk.read_link(path)
        except OSError:
            return ""


def target_of(digest: str) -> str:
    return f"../../snapshots/{digest}/data"


def links_of(folder: PodFolder) -> Iterator[tuple[str, str]]:
    """Yield name and content of each link in the folder."""
    for place, digest in folder.places.items():
        yield str(place), target_of(digest)
    for place, path in folder.currents.items():
        yield f"{CURRENT}{place}", path
    for digest in folder.unplaced:
        yield f"{PIN}{digest}", target_of(digest)
    yield ATTEMPT, str(folder.attempt)


def same_links(one: PodFolder, other: PodFolder) -> bool:
    return (one.places, one.unplaced, one.currents) == (other.places, other.unplaced, other.currents)
