"""Connections spread over the addresses of a host and avoid those that failed."""

from __future__ import annotations

import socket

import pytest

from kube_cache.engine.addresses import Addresses


def test_connections_spread_over_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{number}", 80)) for number in range(4)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kw: answers)
    addresses = Addresses()
    taken = [addresses.acquire("origin", 80) for _ in range(8)]
    assert sorted(taken.count((f"10.0.0.{number}", 80)) for number in range(4)) == [2, 2, 2, 2]
    addresses.mark_failed(("10.0.0.1", 80))
    assert ("10.0.0.1", 80) not in {addresses.acquire("origin", 80) for _ in range(3)}
