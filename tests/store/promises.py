"""Notes of a process that is about to die: what its store had promised of links, to be asked of the store after it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_cache.store import current
from kube_cache.store.node_store import NodeStore

UIDS = [f"{digit * 8}-1111-4222-8333-{digit * 12}" for digit in "abc"]


class Notes:
    """A file beside the root, out of reach of every power cut. One line a note, in order."""

    def __init__(self, root: Path) -> None:
        self._path = root.with_name(root.name + ".notes")
        self._path.touch()
        self._number = 0

    def next(self) -> int:
        """A number for a placement, or the time of a resolve: greater than any before."""
        self._number += 1
        return self._number

    def note(self, kind: str, *words: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([kind, *words]) + "\n")

    def begin(self, store: NodeStore, number: int) -> None:
        """Forget all, and note what is on the disk now. number: of the attempt, so that its numbers are its own."""
        self._path.write_text("")
        self._number = number * 1000
        for folder in store._opened.context.pods.folders():
            places = dict(sorted(folder.places.items()))
            self.note("linked", folder.uid, folder.attempt, places)
        for link in (store.root / "datasets").rglob("@current"):
            path = link.relative_to(store.root)
            standing = current.read(store._opened.disk, str(path))
            assert standing is not None
            self.note("pointed", str(path.parent), standing.digest, standing.resolved_ns / 1e9)

    def read(self) -> Promises:
        promises = Promises()
        for line in self._path.read_text().splitlines():
            kind, *words = json.loads(line)
            getattr(promises, kind)(*words)
        return promises


@dataclass
class Promises:
    """What must hold, from the notes in their order. What was begun and not ended may have happened or not."""

    links: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """uid -> placement and its links, which must be there."""
    asked: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)
    """(uid, placement) -> links: no other may ever be seen."""
    begun: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    checked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """uid -> digests that were found complete under their link."""
    newest: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Folder of the dataset -> digest that `@current` must name, and when it was resolved."""
    pointed_at: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def linking(self, uid: str, attempt: int, places: dict[str, str]) -> None:
        self.asked[uid, attempt] = places
        self.begun[uid].append(attempt)

    def linked(self, uid: str, attempt: int, places: dict[str, str]) -> None:
        self.asked[uid, attempt] = places
        self.links[uid] = attempt, places
        self.begun[uid].clear()
        self.checked[uid] &= set(places.values())

    def unlinking(self, uid: str, digest: str) -> None:
        self.links.pop(uid, None)
        self.checked[uid].discard(digest)

    def complete(self, uid: str, digest: str) -> None:
        self.checked[uid].add(digest)

    def pointing(self, folder: str, digest: str, _resolved_at: float) -> None:
        self.pointed_at[folder].add(digest)

    def pointed(self, folder: str, digest: str, resolved_at: float) -> None:
        self.pointed_at[folder].discard(digest)
        now = self.newest.get(folder)
        if now is None or resolved_at > now[1]:
            self.newest[folder] = digest, resolved_at

    def evicting(self, digest: str) -> None:
        for folder, (named, _) in list(self.newest.items()):
            if named == digest:
                del self.newest[folder]

    def hold(self, store: NodeStore, *, whole: bool) -> None:
        """whole: no bits flip, so that what was complete is complete."""
        assert os.readlink(store.root / "snapshots" / "pods") == "../pods"
        assert not [name for name in os.listdir(store.root / "pods") if name.startswith(".")], "litter is left"
        for uid in UIDS:
            folder = store._opened.context.pods.read(uid)
            found = {str(place): digest for place, digest in folder.places.items()} if folder else {}
            if folder is not None:
                assert found.items() <= self.asked[uid, folder.attempt].items(), "a link that nobody asked for"
            if uid in self.links:
                attempt, places = self.links[uid]
                if folder is None or folder.attempt not in self.begun[uid]:
                    assert (folder and folder.attempt, found) == (attempt, places), "a link was lost"
                    for digest in self.checked[uid] if whole else ():
                        assert store.check(digest).complete, "what a Pod holds was lost"
            for place, digest in found.items():
                if store.check(digest).complete:
                    store._opened.context.pods.verify(uid, int(place), digest)
        for name, (digest, _) in self.newest.items():
            standing = current.read(store._opened.disk, f"{name}/@current")
            assert standing is not None, "the dataset has no link"
            assert standing.digest in {digest} | self.pointed_at[name], "the link names an older snapshot"
