"""A node of the fleet with our engine: `python -m tests.bench.fleet_agent JOB`.

JOB is JSON: `bucket`, `objects` {key: [size, ETag]}, `folder`, and `peers` (`Peers` below; null: all from the origin).
Prints `ready`, begins with a line on its standard input, prints JSON: `done` on the monotonic clock, which all
processes of a machine share, and `from`, the bytes by source; serves the others until its input ends. Importing, the
client's start and the server's are not timed. The composition is the agent's own; only the store is left out, so that a
file stays where the engine wrote it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peers:
    """What an agent is told of the others. members: as the workflow pins them, `host:port` by node."""

    node: str
    members: dict[str, str]
    ca: str
    certificate: str
    key: str
    token_keys: str
    token: str

    def json(self) -> dict[str, Any]:
        return asdict(self)


def snapshot_of(keys: Any) -> str:
    """Return the digest of a snapshot of these objects, which tokens are for."""
    return hashlib.sha256("\0".join(sorted(keys)).encode()).hexdigest()


def main() -> None:
    sys.modules["awscrt"] = None  # type: ignore[assignment] # absent in production; botocore loads it where it is

    import structlog

    from kube_cache.dataset.remote import Manifest, RemoteObject
    from kube_cache.dataset.transfer import FetchedObject, FetchJob
    from kube_cache.dataset.uri import DatasetUri
    from kube_cache.engine.engine import Engine
    from kube_cache.engine.settings import EngineSettings
    from kube_cache.origin.s3 import Origins
    from kube_cache.origin.settings import OriginSettings
    from kube_cache.peers.members import Member, Pinned
    from kube_cache.peers.node import Party, PeerNode
    from kube_cache.peers.settings import PeerSettings
    from kube_cache.store.layout import object_id

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    for key in job["objects"]:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    objects = [RemoteObject("s3", job["bucket"], key, key, size, etag) for key, (size, etag) in job["objects"].items()]
    engine = Engine(EngineSettings(), Origins(OriginSettings()))
    engine.origins.of("s3")  # botocore's client takes a second to make
    with ExitStack() as stack:
        stack.callback(engine.close)
        node = None
        if job["peers"]:
            peers = Peers(**job["peers"])
            address = peers.members[peers.node]
            settings = PeerSettings(
                address=address,
                advertise=address,
                ca_file=Path(peers.ca),
                certificate_file=Path(peers.certificate),
                key_file=Path(peers.key),
                token_keys_file=Path(peers.token_keys),
            )
            node = PeerNode(peers.node, settings, object_id)
            stack.callback(node.close)
        print("ready", flush=True)
        sys.stdin.readline()
        party: Party | None = None
        if node is not None:
            snapshot = snapshot_of(job["objects"])
            total = sum(remote.size for remote in objects)
            manifest = Manifest(DatasetUri.parse(f"s3://{job['bucket']}/"), snapshot, tuple(objects), total)
            members = tuple(Member(name, address) for name, address in peers.members.items())
            party = stack.enter_context(node.join(manifest, peers.token, Pinned(snapshot, 1, members)))

        def job_of(remote: RemoteObject) -> FetchJob:
            path = folder / remote.key
            plan = party.plan(object_id(remote), path) if party is not None else None
            return FetchJob(remote, path, path.with_suffix(".journal"), plan=plan)

        def landed(done: FetchedObject) -> None:
            if party is not None:
                party.landed(object_id(done.job.object), done.job.part_path)

        engine.fetch([job_of(remote) for remote in objects], on_object=landed)
        came = dict(party.swarm.taken_bytes) if party is not None else {}
        print(json.dumps({"done": time.monotonic(), "from": came}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
