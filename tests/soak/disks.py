"""What lies on a node's disk, read from the files themselves: no code of the product, no index of the store.

A snapshot becomes visible by one rename, and the kernel writes the time of that into the folder (its ctime). A look at
it a moment later therefore knows since when it has been there, however late the look comes.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass
class Sighting:
    """A snapshot that was seen on the disk; one that is evicted and fetched again is another."""

    since: float
    """Seconds since the epoch, by the file system."""
    inode: int
    """Of the folder; another snapshot may have it later."""
    files: dict[str, str]
    """Relative path → SHA-256."""
    stats: dict[str, tuple[int, int, int]]
    """Relative path → (inode, size, mtime)."""
    last_seen: float


class Disk:
    """One cache root. `look` is called often; everything else tells of the last look."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sightings: dict[str, list[Sighting]] = {}
        """By digest, the latest last."""
        self.looked_at = 0.0
        """When the last whole look began."""

    def look(self) -> None:
        began = time.time()
        try:
            entries = [entry for entry in os.scandir(self.root / "snapshots") if _DIGEST.fullmatch(entry.name)]
        except FileNotFoundError:
            entries = []
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                data, since = Path(entry.path) / "data", found.st_ctime_ns / 1e9
                known = next(reversed(self._of(entry.name)), None)
                is_known = known is not None and known.inode == found.st_ino
                if known is None or not is_known or (since != known.since and _stats(data) != known.stats):
                    files, stats = _read(data)
                    if Path(entry.path).stat().st_ino != found.st_ino:
                        continue  # removed and made again while it was read
                    known = Sighting(since, found.st_ino, files, stats, began)
                    self._sightings.setdefault(entry.name, []).append(known)
                elif _stats(data) != known.stats:
                    continue  # is being removed, or was changed: not seen whole
                known.last_seen = began
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed meanwhile
        self.looked_at = began

    def held(self, digest: str, at: float) -> Sighting | None:
        """Return the snapshot if it was whole at that time and still was at the last look, which must be later."""
        for sighting in self._of(digest):
            if sighting.since <= at and sighting.last_seen >= self.looked_at:
                return sighting
        return None

    def history(self, digest: str) -> str:
        """Describe in words what was seen of a snapshot."""
        seen = [f"there since {_clock(s.since)}, last seen {_clock(s.last_seen)}" for s in self._of(digest)]
        return "; ".join(seen) or "never seen whole"

    def link(self, uid: str, place: int) -> str:
        """Return the digest of the snapshot that a Pod's mount leads to; "" where it leads nowhere."""
        try:
            target = (self.root / "snapshots" / "pods" / uid / str(place)).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return target.parent.name

    def pods(self) -> list[str]:
        """Return the uids of the Pods that have a folder of links."""
        return [name for name in _names(self.root / "pods") if not name.startswith(".")]

    def pinned_bytes(self) -> int:
        """Return the bytes of the objects that links of Pods keep, each counted once."""
        sizes: dict[int, int] = {}
        for uid in self.pods():
            for link in _names(self.root / "pods" / uid):
                try:
                    stats = _stats((self.root / "pods" / uid / link).resolve(strict=True))
                    sizes |= {inode: size for inode, size, _ in stats.values()}
                except (FileNotFoundError, NotADirectoryError):
                    continue
        return sum(sizes.values())

    def unfinished(self) -> list[str]:
        """Return what is neither whole nor gone: half-made and half-removed folders, parts, journals, quarantine."""
        half = [
            f"{folder}/{name}"
            for folder in ("snapshots", "pods")
            for name in _names(self.root / folder)
            if name.startswith(".")
        ]
        kept = [f"{folder}/{name}" for folder in ("incoming", "quarantine") for name in _names(self.root / folder)]
        return half + kept

    def make_old(self) -> None:
        """Give links and parts the age at which their sweeps remove them, which a test cannot wait for."""
        long_ago = time.time() - 3 * 86400
        for folder in ("pods", "incoming"):
            for name in _names(self.root / folder):
                try:
                    os.utime(self.root / folder / name, (long_ago, long_ago))
                except FileNotFoundError:
                    continue

    def _of(self, digest: str) -> list[Sighting]:
        return self._sightings.get(digest, [])


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(data: Path) -> tuple[dict[str, str], dict[str, tuple[int, int, int]]]:
    stats = _stats(data)
    files = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in stats}
    return files, stats


def _stats(data: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in data.rglob("*"):
        stat = path.lstat()
        if not path.is_dir():
            found[str(path.relative_to(data))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if not found:
        raise FileNotFoundError(data)
    return found


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f"{seconds % 1:.3f}"[1:]
