"""What a test leaves open fails that test."""

from __future__ import annotations

from pathlib import Path

from tests.plugins import nested

TESTS = """
import socket

def test_guilty():
    leaked = [socket.socket()]
    leaked.append(leaked)  # a cycle: only the collector finds it

def test_innocent(): pass
"""


def test_an_unclosed_socket_is_an_error_of_the_test_that_left_it(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    ran = nested.run(tmp_path, "garbage", "-q", "-W", "error")
    assert "2 passed, 1 error" in ran.stdout, ran.stdout
    assert "ERROR at teardown of test_guilty" in ran.stdout
