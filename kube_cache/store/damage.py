"""Records that bytes on the disk are wrong: a list beside the snapshot's manifest, and the object in `quarantine/`.

Does not find damage (`scrub` and the downloads read bytes) and does not mend it (the next download does).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kube_cache.store import manifests
from kube_cache.store.context import Core
from kube_cache.store.manifests import Chunk

_log = structlog.get_logger("kube_cache.store")


@dataclass(frozen=True, slots=True)
class BadObject:
    digest: str
    path: str
    object: str
    reason: str


def quarantine(core: Core, digest: str, chunk: Chunk, place: int, reason: str) -> bool:
    """To quarantine, and every snapshot that links it is damaged. False when it was replaced meanwhile."""
    name, inode = chunk.ids[place], chunk.inodes[place]
    with core.mutation():
        try:
            if os.stat(core.layout.files(digest) / chunk.paths[place]).st_ino != inode:
                return False
        except FileNotFoundError:
            return False
        # The snapshots are marked first: a crash in between leaves a mark too many, never one too few.
        for other in core.digests():
            with suppress(FileNotFoundError, manifests.TornManifest):
                for theirs in manifests.read_chunks(core.layout.manifest(other)):
                    paths = [
                        theirs.paths[here]
                        for here, each in enumerate(theirs.inodes)
                        if each == inode and theirs.ids[here] == name
                    ]
                    if paths:
                        mark_damaged(core, other, [f"{path} | {reason}" for path in paths])
        with suppress(FileNotFoundError):
            if os.stat(core.layout.object(name)).st_ino == inode:
                # rename(2) does nothing where both are names of one file.
                core.disk.unlink_if_there(core.layout.quarantine / name)
                core.disk.rename(core.layout.object(name), core.layout.quarantine / name)
                core.index.drop_objects([name])
    _log.error("an object is quarantined", digest=digest, path=chunk.paths[place], reason=reason)
    return True


def mark_damaged(core: Core, digest: str, problems: list[str]) -> None:
    """No check finds it whole from now on, until it is mended."""
    path = core.layout.damaged(digest)
    known = read_damaged(core, digest)
    lines = known + [problem for problem in problems if problem not in known]
    core.watch.disarm(digest)
    core.disk.write_whole(path, [f"{line}\n".encode() for line in lines])


def read_damaged(core: Core, digest: str) -> list[str]:
    """`path | reason` each."""
    try:
        return core.layout.damaged(digest).read_text().splitlines()
    except FileNotFoundError:
        return []
