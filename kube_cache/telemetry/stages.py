"""The stages of a Pod's warm-up: their names in metrics and traces. Nothing else names a stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from kube_cache import names
from kube_cache.contracts.common import Phase


class Stage(StrEnum):
    START = "start"
    """From the sight of the Pod by the watcher until its workflow runs; in traces only."""
    RESOLVE = "resolve"
    """List the dataset: by the operator for the Pod, by the agent before a download."""
    WAIT = "wait"
    """Wait: of a download for its turn in the agent; of a request for a throttled origin, or after a failure."""
    SEAT = "seat"
    """Create the seat, and wait until the scheduler binds it."""
    CHECK = "check"
    """Link the Pod and check the disk."""
    STREAM = "stream"
    """The whole download: wait, resolve, fetch, verify, publish."""
    FIRST_BYTE = "first_byte"
    """From a request to the first byte of its answer."""
    NETWORK = "network"
    """Receive bytes, without decryption."""
    DECRYPT = "decrypt"
    """Decrypt TLS."""
    VERIFY = "verify"
    """Compute checksums."""
    WRITE = "write"
    """Write to the disk."""
    PUBLISH = "publish"
    """Link the objects into a snapshot, and make it durable and visible."""
    RELEASE = "release"
    """Nominate the Pod, delete its seat, remove its gate."""
    BIND = "bind"
    """From the release until the scheduler has bound the Pod."""


OF_RANGES: Final = (Stage.WAIT, Stage.FIRST_BYTE, Stage.NETWORK, Stage.DECRYPT, Stage.VERIFY, Stage.WRITE)
"""Stages that many connections are in at once: their seconds are added up."""

OF_STEPS: Final = (
    Stage.RESOLVE, Stage.WAIT, Stage.SEAT, Stage.CHECK, Stage.STREAM, Stage.PUBLISH, Stage.RELEASE, Stage.BIND,
)  # fmt: skip
"""Stages that are steps of one Pod or download: each has a duration."""

OF_ACTIVITIES: Final = {
    names.RESOLVE_DATASET: Stage.RESOLVE,
    names.CREATE_SEAT: Stage.SEAT,
    names.CHECK_DISK: Stage.CHECK,
    names.STREAM_DATASET: Stage.STREAM,
}
"""Activities that are one stage as a whole."""

OF_PHASES: Final = {
    Phase.RESOLVING: Stage.RESOLVE,
    Phase.PLACING: Stage.SEAT,
    Phase.WAITING_FOR_CAPACITY: Stage.SEAT,
    Phase.CHECKING: Stage.CHECK,
    Phase.WARMING: Stage.STREAM,
    Phase.RELEASING: Stage.RELEASE,
    Phase.BINDING: Stage.BIND,
}
"""Stage that a Pod is in by its phase. In any other phase it waits, for others or for a person."""
