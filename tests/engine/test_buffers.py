"""Each worker has a buffer, smaller when there are many, and gives its pages back."""

from __future__ import annotations

from kube_cache.engine.buffers import SLOT_BYTES, Buffers, buffer_size


def test_buffers_shrink_with_many_workers_and_come_back() -> None:
    assert buffer_size(8) == SLOT_BYTES
    assert buffer_size(64) < SLOT_BYTES
    buffers = Buffers(2)
    slot, view = buffers.acquire()
    view[:] = b"x" * SLOT_BYTES
    buffers.shrink(slot)
    assert view[0] == ord("x")
    assert view[SLOT_BYTES - 1] == 0  # its page was given back
    view.release()
    buffers.release(slot)
    assert sorted(buffers.acquire()[0] for _ in range(2)) == [0, 1]
