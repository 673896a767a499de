"""A container with root and a writable mount of its own snapshot, which does its worst: run by `test_tenant`.

    python -m tests.store.tenant SNAPSHOT-DATA TARGET SEED

Keeps to what such a container can do: all names are made and changed below the data folder, which it enters again when
the snapshot was published anew. TARGET is a folder outside, which its links lead to. Ends when it is killed.
"""

from __future__ import annotations

import os
import random
import stat
import sys
from contextlib import suppress
from pathlib import Path


class Tenant:
    def __init__(self, data: Path, target: Path, chance: random.Random) -> None:
        self._data, self._chance = data, chance
        root = data.parents[2]
        self._targets = [str(target), str(target / "f"), "/", "../../..", "..", str(root), str(root / "cache-id")]
        self._targets += [str(path) for path in (root / "snapshots").glob("*/data") if path != data]
        self._targets += [str(path) for path in (root / "snapshots").glob("*/manifest") if path.parent != data.parent]
        self._aside = 0

    def act(self) -> None:
        """Do one thing to one random name below the data."""
        below = list(self._data.rglob("*"))[:200]
        path = self._chance.choice(below) if below else self._data / "d"
        deed = self._chance.choice([
            self.link, self.link, self.link, self.fifo, self.device, self.folder, self.move, self.deepen, self.mode,
            self.write, self.restore_times, self.swap,
        ])  # fmt: skip
        for folder in (self._data, path.parent):
            with suppress(OSError):
                folder.chmod(0o755)
        deed(path)

    def away(self, path: Path) -> None:
        self._aside += 1
        path.rename(self._chance.choice([path.parent, self._data]) / f".aside{self._aside % 50}")

    def link(self, path: Path) -> None:
        self.away(path)
        path.symlink_to(self._chance.choice(self._targets))

    def fifo(self, path: Path) -> None:
        self.away(path)
        os.mkfifo(path)

    def device(self, path: Path) -> None:
        self.away(path)
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def folder(self, path: Path) -> None:
        self.away(path)
        path.mkdir()
        (path / "x").touch()

    def move(self, path: Path) -> None:
        self.away(path)

    def deepen(self, path: Path) -> None:
        above = os.open(path if path.is_dir() and not path.is_symlink() else self._data, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            for _ in range(self._chance.choice([3, 100, 600])):
                os.mkdir("d", dir_fd=above)
                below = os.open("d", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above)
                os.close(above)
                above = below
        finally:
            os.close(above)

    def mode(self, path: Path) -> None:
        if not path.is_symlink():
            path.chmod(self._chance.choice([0o000, 0o777, 0o444, 0o4755]))

    def write(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.pwrite(fd, b"evil", 0)
        finally:
            os.close(fd)

    def restore_times(self, path: Path) -> None:
        if stat.S_ISREG((before := path.lstat()).st_mode):
            self.write(path)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def swap(self, path: Path) -> None:
        """Swap a folder for a link and back, so that it is one thing when it is looked at and another when used."""
        aside = path.with_name(".swapped")
        for _ in range(50):
            path.rename(aside)
            path.symlink_to(self._chance.choice(self._targets))
            path.unlink()
            aside.rename(path)


def main() -> None:
    tenant = Tenant(Path(sys.argv[1]), Path(sys.argv[2]), random.Random(sys.argv[3]))
    print("ready", flush=True)
    while True:
        with suppress(OSError):
            tenant.act()


if __name__ == "__main__":
    main()
