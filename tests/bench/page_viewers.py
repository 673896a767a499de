"""Viewers of an operator's page, a process of their own: `python -m tests.bench.page_viewers PORT COUNT`, until killed.

Their work is not to be taken for the operator's: they are nice, as if they had a machine of their own. Says `ready`,
and each second how many bytes they have read.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time


def main() -> None:
    os.nice(19)
    port, count = int(sys.argv[1]), int(sys.argv[2])
    selector = selectors.DefaultSelector()
    for _ in range(count):
        viewer = socket.create_connection(("127.0.0.1", port))
        viewer.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        selector.register(viewer, selectors.EVENT_READ)
    print("ready", flush=True)
    read, told_at = 0, 0.0
    while True:
        for key, _ in selector.select(1):
            found: socket.socket = key.fileobj  # type: ignore[assignment]
            read += len(found.recv(1 << 20))
        if time.monotonic() - told_at >= 1:
            told_at = time.monotonic()
            print(read, flush=True)


if __name__ == "__main__":
    main()
