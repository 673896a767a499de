"""The links of each Pod, `pods/<uid>/<n> -> ../../snapshots/<digest>/data`: what the Pod mounts, and its pin.

A Pod mounts `snapshots/`, sub-path `pods/<uid>/<n>`, by way of the link `snapshots/pods -> ../pods`. The detour makes a
missing link an error of the kubelet: a missing path that leaves the volume is refused, one inside the volume is created
as an empty directory (docs/design/store.md). A folder is built aside and renamed once. While its Pod may run, a link is
made again where it was lost, and never led elsewhere. What a folder holds is told in `pod_folders`.

Decides neither which Pod is alive nor what is evicted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import DiskFault, InvalidRequest, StalePlacement
from kube_cache.names import CURRENT_LINK
from kube_cache.store.disk import Disk
from kube_cache.store.layout import PODS, Layout, is_id
from kube_cache.store.locks import ProcessLock
from kube_cache.store.pod_folders import (
    ATTEMPT,
    CURRENT,
    PIN,
    PodFolder,
    PodFolders,
    is_uid,
    links_of,
    same_links,
    target_of,
)

_log = structlog.get_logger("kube_cache.store")
_PODS_TARGET: Final = f"../{PODS}"
_NEW, _OLD = ".new-", ".old-"
_TRIES = 3
Place = tuple[int, DatasetUri]
"""The place of a dataset among those of its Pod, and the dataset."""


class PodLinks(PodFolders):
    """Thread-safe. Every change is made under `lock`, which an eviction holds while it reads who pins a snapshot."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        super().__init__(layout, disk)
        self.lock = ProcessLock(disk, layout.links_lock)

    # The way into the folders.

    def prepare(self) -> None:
        """Make `pods/`, and `snapshots/` with its link to it, at start; remove what was being built or removed."""
        layout, disk = self._layout, self._disk
        with self.lock.held():
            disk.make_folder(layout.pods)
            aside = layout.top / ".snapshots-aside"
            disk.remove_tree(aside)
            if not disk.exists(layout.snapshots):
                # Made aside, so that no moment has a `snapshots/` without the link: a mount in it would be created.
                disk.make_folder(aside)
                disk.symlink(_PODS_TARGET, aside / PODS)
                disk.sync_folder(aside)
                disk.rename(aside, layout.snapshots)
                disk.sync_folder(layout.top)
            self.ensure()
            for name in disk.names(layout.pods):
                if name.startswith((_NEW, _OLD)):
                    disk.remove_tree(layout.pods / name)

    def ensure(self) -> None:
        """Check that `snapshots/pods` is the link `../pods`, and mend it. Raises DiskFault where it cannot be mended.

        Without that link, the kubelet makes an empty directory of a path that is not there.
        """
        layout, disk = self._layout, self._disk
        try:
            mode = stat.S_IMODE(disk.stat(layout.pods).st_mode)
        except FileNotFoundError:
            disk.make_folder(layout.pods)
            mode = 0
        if mode != 0o755:  # a container of any user must find its link
            disk.set_folder_mode(layout.pods, 0o755)
        if self._read_link(layout.pods_link) == _PODS_TARGET:
            return
        with self.lock.held():
            for _ in range(_TRIES):  # the kubelet may make a directory between our steps
                try:
                    if disk.exists(layout.pods_link):
                        _log.error("what Pods mount was not the link to their folders", path=str(layout.pods_link))
                        self._clear_way()
                    disk.symlink(_PODS_TARGET, layout.pods_link)
                    break
                except FileExistsError:
                    continue
            if self._read_link(layout.pods_link) != _PODS_TARGET:
                raise DiskFault(
                    f"{layout.pods_link} must be a link to {_PODS_TARGET}, or a Pod would start on an empty directory;"
                    " something else stands there: move it away, and no Pod is released until then"
                )
            disk.sync_folder(layout.snapshots)

    def _clear_way(self) -> None:
        """Remove another link, or directories that hold no file, where the link `snapshots/pods` belongs."""
        path = self._layout.pods_link
        if not self._disk.is_folder(path):
            self._disk.unlink(path)
            return
        below = [folder for folder, found in self._disk.walk(path) if stat.S_ISDIR(found.st_mode)]
        for folder in [*reversed(below), str(path)]:
            try:
                self._disk.remove_folder(folder)
            except OSError:  # not empty: whatever it is, it is not ours
                return

    def verify(self, uid: str, place: int, digest: str) -> None:
        """Check that what the Pod mounts is exactly the snapshot. Raises DiskFault."""
        self.ensure()
        mounted, expected = self._layout.pods / uid / str(place), self._layout.files(digest)
        content = self._read_link(mounted)
        # A folder to `Disk` is one on whose path no link stands.
        if content != target_of(digest) or not self._disk.is_folder(expected):
            raise DiskFault(
                f"{self._layout.absolute(mounted)} leads to {content!r} and not to {self._layout.absolute(expected)}: a"
                " link stands where a directory belongs; remove it and the Pod's folder"
            )

    # Changes.

    def link(self, uid: str, attempt: int, digests: Sequence[str], keep_current: Iterable[Place] = ()) -> None:
        """Give the Pod exactly these links, durably: the n-th leads to the n-th snapshot, which may come later.

        attempt: placement that asks; an earlier one is refused (StalePlacement); 0: unknown, which replaces any.
        keep_current: places whose dataset's `@current` is pinned too. Linking twice links once.
        """
        _check(uid, digests)
        wanted = PodFolder(
            uid,
            attempt,
            places=dict(enumerate(digests)),
            currents={n: self._to_current(uri) for n, uri in keep_current},
        )
        pods = self._layout.pods
        with self.lock.held():
            self.ensure()
            before = self.read(uid)
            if before is not None and before.attempt > attempt > 0:
                raise StalePlacement(
                    f"Pod {uid} was placed again since: placement {before.attempt} has its links, not {attempt}",
                    placement=before.attempt,
                )
            if before is None or not same_links(before, wanted):
                self._replace(wanted)
            elif before.attempt != attempt > 0:
                aside = pods / uid / f"{ATTEMPT}.new"
                self._disk.unlink_if_there(aside)
                self._disk.symlink(str(attempt), aside)
                self._disk.rename(aside, pods / uid / ATTEMPT)
                self._disk.sync_folder(pods / uid)
            self._disk.sync_folder(pods)  # also where the links were there: their maker may have died before this

    def _replace(self, wanted: PodFolder) -> None:
        """Build the folder aside and rename it into place. A folder of an earlier placement goes first."""
        disk, pods = self._disk, self._layout.pods
        aside, old, final = pods / f"{_NEW}{wanted.uid}", pods / f"{_OLD}{wanted.uid}", pods / wanted.uid
        for path in (aside, old):
            disk.remove_tree(path)
        disk.make_folder(aside)
        for name, content in links_of(wanted):
            disk.symlink(content, aside / name)
        disk.sync_folder(aside)
        if disk.exists(final):
            # Two renames, not one exchange: between them the Pod has no link, and it is not released yet.
            disk.rename(final, old)
        disk.rename(aside, final)
        disk.sync_folder(pods)
        disk.remove_tree(old)

    def unlink(self, uid: str, digest: str, attempt: int = 0) -> bool:
        """Remove the Pod's links to the snapshot, and its folder when it is empty then. False if there was none.

        attempt: links of a later placement stay; 0: links of any placement are removed.
        """
        if not is_uid(uid):
            return False
        with self.lock.held():
            folder = self.read(uid)
            if folder is None or folder.attempt > attempt > 0:
                return False
            places = [place for place, other in folder.places.items() if other == digest]
            if not places and digest not in folder.unplaced:
                return False
            if len(places) == len(folder.places) and not folder.unplaced - {digest}:
                self._remove(uid)
                return True
            base = self._layout.pods / uid
            for name in (f"{PIN}{digest}", *(f"{kind}{place}" for place in places for kind in ("", CURRENT))):
                self._disk.unlink_if_there(base / name)
            return True

    def remove(self, uid: str) -> None:
        """Remove all links of a Pod that is gone."""
        with self.lock.held():
            self._remove(uid)

    def _remove(self, uid: str) -> None:
        """Rename the folder away, then delete it: a folder that is there has all its links. A cut is found at start."""
        old = self._layout.pods / f"{_OLD}{uid}"
        self._disk.remove_tree(old)
        try:
            self._disk.rename(self._layout.pods / uid, old)
        except FileNotFoundError:
            return
        self._disk.remove_tree(old)

    def restore(self, uid: str, digests: Sequence[str]) -> Restored:
        """Make the links again that a released Pod has lost, durably. A link that leads elsewhere stays as it is.

        Then the snapshot of the receipt is pinned without a place, because a container may have mounted either.
        """
        _check(uid, digests)
        with self.lock.held():
            self.ensure()
            folder = self.read(uid)
            if folder is None or not folder.places:
                currents = folder.currents if folder else {}
                attempt = folder.attempt if folder else 0
                made = set(digests) - (folder.unplaced if folder else set())
                self._replace(PodFolder(uid, attempt, places=dict(enumerate(digests)), currents=currents))
                return Restored(len(made), [])
            base = self._layout.pods / uid
            wrong = [n for n, digest in enumerate(digests) if folder.places.get(n, digest) != digest]
            missing = {str(n): digest for n, digest in enumerate(digests) if n not in folder.places}
            missing |= {f"{PIN}{digests[n]}": digests[n] for n in wrong if digests[n] not in self.digests(folder)}
            for name, digest in missing.items():
                self._disk.symlink(target_of(digest), base / name)
            kept = set() if not wrong else {digests[n] for n in wrong}
            for digest in folder.unplaced - kept:
                self._disk.unlink_if_there(base / f"{PIN}{digest}")  # of an older version; the places pin it now
            if missing:
                self._disk.sync_folder(base)
            return Restored(len(missing), wrong)

    def keep(self, uid: str, digests: Iterable[str]) -> int:
        """Pin snapshots for a Pod whose places are not known, durably. Returns the number of new pins."""
        digests = list(digests)
        _check(uid, digests)
        with self.lock.held():
            folder = self.read(uid)
            missing = sorted(set(digests) - (self.digests(folder) if folder else set()))
            if folder is None:
                self._replace(PodFolder(uid, unplaced=frozenset(missing)))
            elif missing:
                for digest in missing:
                    self._disk.symlink(target_of(digest), self._layout.pods / uid / f"{PIN}{digest}")
                self._disk.sync_folder(self._layout.pods / uid)
            return len(missing)

    def _to_current(self, uri: DatasetUri) -> str:
        """Compose the path of the dataset's `@current`, relative to a Pod's folder."""
        return os.path.relpath(self._layout.dataset(uri) / CURRENT_LINK, self._layout.pods / "uid")


@dataclass(frozen=True, slots=True)
class Restored:
    made: int
    """Number of pins that were missing."""
    wrong: list[int]
    """Places whose link leads to another snapshot than the receipt names."""


def _check(uid: str, digests: Iterable[str]) -> None:
    """Raise InvalidRequest unless all are what they claim: they become names of files."""
    if not is_uid(uid):
        raise InvalidRequest(f"{uid!r} is not the uid of a Pod")
    for digest in digests:
        if not is_id(digest):
            raise InvalidRequest(f"{digest!r} is not the digest of a snapshot")
