"""The lock that publishing and removing take: waited for a while, never for ever, and its holder is named."""

from __future__ import annotations

import threading

import pytest

from kube_cache.errors import StoreConflict
from kube_cache.store import locks
from kube_cache.store.node_store import NodeStore


def test_a_thread_that_holds_the_lock_too_long_is_named_and_what_waited_can_be_tried_again(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TIMEOUT_S", 0.05)
    held, done = threading.Event(), threading.Event()

    def publish() -> None:
        with store._opened.context.exclusive():
            held.set()
            assert done.wait(60)

    publisher = threading.Thread(target=publish, name="activity_7")
    publisher.start()
    assert held.wait(60)
    with pytest.raises(StoreConflict, match="thread activity_7 of this agent"):
        store.evict("0" * 64)
    done.set()
    publisher.join(60)
    assert store.evict("0" * 64) == 0


def test_the_lock_is_reentrant_and_free_after_an_error(store: NodeStore) -> None:
    with (
        pytest.raises(ValueError, match="inside"),
        store._opened.context.exclusive(),
        store._opened.context.exclusive(),
    ):
        raise ValueError("inside")
    taken: list[bool] = []

    def other() -> None:
        with store._opened.context.exclusive():
            taken.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(60)
    assert taken
