"""Errors that stop a build, each in one line that names the remedy; the command line prints no traceback."""

from __future__ import annotations


class ServerError(Exception):
    """Base class. `str()`: thing, reason and remedy in one line."""


class UnknownServer(ServerError):
    """`pins` has no server of that name."""


class ToolchainMissing(ServerError):
    """Go is not installed or too old."""


class NetworkDown(ServerError):
    """Go could not fetch a module."""


class BuildFailed(ServerError):
    """The compiler failed; the message names the log."""
