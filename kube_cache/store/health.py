"""Tells a dying disk from an object that cannot be read, and remembers a fault until the disk reads well again.

An NVMe that was reset, or that is about to die, answers EIO or ETIMEDOUT for every object on it. To condemn them one
by one would fetch everything again, onto the same disk. So only wrong bytes condemn an object at once. An object that
cannot be read is a suspect until a neighbour was read: the neighbour proves that the disk lives, and a second failure
of the suspect then condemns the suspect alone.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import Final

NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})
"""Something else is in the object's place: the check finds that, and the object's bytes are not to blame."""
MEDIUM_ERRORS: Final = frozenset({
    errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.EUCLEAN, errno.EBADMSG,
})  # fmt: skip
"""Answers of a disk or file system that may concern one place alone; any other concerns the disk, or this process."""
OF_PROCESS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors by which the process lacks something; they say nothing of the disk."""
MAX_IN_ROW: Final = 3
"""Objects in a row that cannot be read, before the disk is taken to be dying."""
MAX_UNREADABLE: Final = 8
"""Unreadable objects in one round, before the disk is taken to be dying though others can be read. Arbitrary."""
_REMEMBERED_S: Final = 600.0
"""A fault counts for so long after it was met last; the background scrub tries each minute."""


class DiskHealth:
    """Of one disk, for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fault: OSError | None = None
        self._met_at = 0.0
        self.unreadable = 0
        """Objects that were condemned because they cannot be read, since a scrub round ended without a fault."""

    def note(self, error: OSError) -> None:
        """Remember a fault of the disk itself."""
        if error.errno not in OF_PROCESS:
            with self._lock:
                self._fault, self._met_at = error, time.monotonic()

    def note_sound(self) -> None:
        """Forget the fault: a whole round met none."""
        with self._lock:
            self._fault = None
            self.unreadable = 0

    def fault(self) -> OSError | None:
        """Return the fault that still counts."""
        with self._lock:
            if self._fault is not None and time.monotonic() - self._met_at > _REMEMBERED_S:
                self._fault = None
            return self._fault

    def raise_if_dying(self) -> None:
        """Raise the fault that still counts, as OSError."""
        if fault := self.fault():
            raise OSError(fault.errno, fault.strerror, fault.filename)
