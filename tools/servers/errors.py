"""What stops a build, as one line that says what to do; the command line prints it without a traceback."""

from __future__ import annotations


class ServerError(Exception):
    """Base; `str()` is the whole story in one line."""


class UnknownServer(ServerError):
    """A name that `pins` does not hold."""


class ToolchainMissing(ServerError):
    """Go is not installed or too old."""


class NetworkDown(ServerError):
    """Go could not fetch a module."""


class BuildFailed(ServerError):
    """The compiler said no; the message names the log."""
