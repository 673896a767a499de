"""The development stack: `Stack` for tests, demo and benches, `python -m tools.stack` for people."""

from tools.stack.processes import StackError
from tools.stack.stack import Stack

__all__ = ["Stack", "StackError"]
