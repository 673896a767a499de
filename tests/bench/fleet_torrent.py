"""A node of the fleet with libtorrent, a program of its own: `python tests/bench/fleet_torrent.py JOB`.

Runs in an environment that has libtorrent and nothing of ours. JOB is JSON: `torrent` (a file), `folder`, `address`,
`peers` (addresses of all others), `web_seed` (a URL, or empty). Speaks as `fleet_agent` does: prints `ready`, begins
with a line on its standard input, prints what came of it, and seeds until its input ends. With `make` and `source`
instead of `folder`, writes the torrent: v2, with libtorrent's own size of pieces.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

PORT = 6881
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,  # its own congestion control takes CPU, and yields to TCP
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    # The best of what was tried with 8 nodes: 2.9 x S/b, and 4.5 x with libtorrent's own settings.
    "urlseed_max_request_bytes": 1 << 20,
    "unchoke_slots_limit": -1,
    "mixed_mode_algorithm": 0,  # prefer TCP
    "send_buffer_watermark": 4 << 20,
    "peer_turnover": 0,
    "piece_extent_affinity": False,
    "whole_pieces_threshold": 1,
    "connections_limit": 500,
    "connection_speed": 200,
    "min_reconnect_time": 1,  # s; a node that was asked before it had the torrent is asked again after 60 else
    "alert_mask": lt.alert.category_t.status_notification
    | lt.alert.category_t.error_notification
    | lt.alert.category_t.storage_notification,
}


def write_torrent(job: dict[str, Any]) -> None:
    source = Path(job["source"])
    made = lt.create_torrent(lt.list_files(str(source)), 0, lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, str(source.parent))
    Path(job["torrent"]).write_bytes(lt.bencode(made.generate()))


def main() -> None:
    job = json.loads(sys.argv[1])
    if "source" in job:
        write_torrent(job)
        return
    session = lt.session({**SETTINGS, "listen_interfaces": f"{job['address']}:{PORT}"})
    print("ready", flush=True)
    sys.stdin.readline()
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(job["torrent"])
    params.save_path = job["folder"]
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if job["web_seed"]:
        params.url_seeds = [job["web_seed"]]
    params.peers = [(address, PORT) for address in job["peers"]]
    handle = session.add_torrent(params)
    done = 0.0
    flushed = False
    while not flushed:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_error_alert):
                raise SystemExit(alert.message())
            flushed |= isinstance(alert, lt.cache_flushed_alert) and bool(done)
        if not done and handle.status().is_seeding:
            done = time.monotonic()
            handle.flush_cache()  # so that the files can be compared; not timed
    print(json.dumps({"done": done}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
