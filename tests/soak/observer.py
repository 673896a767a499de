"""Watches API server and disks from the side, and says which Pods were released without their data.

It shares nothing with the product: a client of its own (`tools.stack.api`), the audit log, the files on the disks, and
what the soak itself uploaded. Each release is judged by the disks as they were when the API server had the request. A
Pod that was released must find its data, by its own links, for as long as it lives.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import urllib3

from tests.soak.disks import Disk
from tests.soak.records import DATASET, GATE, NODE, ON_TIMEOUT, SNAPSHOT, Key, Records, Release
from tools.stack.api import ApiError, Document, KubeApi

AWAY = (ApiError, urllib3.exceptions.HTTPError, OSError)
"""What a request raises while the API server is killed, paused or not ready."""
_UNKNOWN = "?"
"""Who released a Pod, of which a list tells and no record."""
_LOOK_S = 0.1
_LIST_S = 0.5


@dataclass(frozen=True)
class Verdict:
    """A promise that was broken. kind: one of a few words, counted in the report."""

    kind: str
    pod: str
    why: str


class Observer:
    """A thread of its own, from `start` to `stop`.

    roots: node → cache root. contents: dataset URI → file → hashes that it may have.
    """

    def __init__(
        self, api: KubeApi, log: Path, roots: Mapping[str, Path], contents: Callable[[str], Mapping[str, set[str]]]
    ) -> None:
        self._api = api
        self._records = Records(log)
        self._contents = contents
        self.disks = {node: Disk(root) for node, root in roots.items()}
        self.verdicts: list[Verdict] = []
        self.counts: Counter[str] = Counter()
        """`judged`, `unjudged` (the Pod was gone first), `by wish` (cold, as its owner asked), `looks`, `lists`."""
        self.pods: dict[Key, Document] = {}
        """Pods of the last list."""
        self.listed_at = 0.0
        """When the last list that was answered was asked for."""
        self._released: dict[Key, list[Release]] = {}
        self._waiting: list[Release] = []
        self._suspects: set[Verdict] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)
        if self.failure:
            raise RuntimeError("the observer has ended early, so the soak has proved nothing") from self.failure

    def wait_listed(self, timeout_s: float = 60) -> None:
        """Wait for a list, and a look at the disks after it, that began after this call."""
        now = time.time()
        deadline = now + timeout_s
        while self.listed_at < now or min(disk.looked_at for disk in self.disks.values()) < self.listed_at:
            if time.time() > deadline or not self._thread.is_alive():
                raise TimeoutError("the observer sees nothing")
            time.sleep(0.05)

    @property
    def cold(self) -> int:
        """Number of Pods that were released, or kept, without their data."""
        return len({verdict.pod for verdict in self.verdicts})

    def _run(self) -> None:
        next_list = 0.0
        try:
            while not self._stopped.wait(_LOOK_S):
                for release in self._records.read():
                    self._take(release)
                if time.time() >= next_list:
                    self._list()
                    next_list = time.time() + _LIST_S
                for disk in self.disks.values():
                    disk.look()
                self.counts["looks"] += 1
                self._judge()
                self._judge_living()
        except BaseException as error:
            self.failure = error  # raised by `stop`

    # What is seen.

    def _take(self, release: Release) -> None:
        known = self._released.setdefault(release.key, [])
        if known and known[-1].by == _UNKNOWN and release.at <= known[-1].at:
            known[-1] = release  # the record of what a list has shown already: a busy server writes it a moment later
            return
        known.append(release)
        if len(known) > 1:
            self._tell("released twice", release.key, f"by {release.by}")
        self._waiting.append(release)

    def _list(self) -> None:
        asked = time.time()
        try:
            items = self._api.get("/api/v1/pods", resourceVersion="")["items"]
        except AWAY:
            self.counts["lists refused"] += 1
            return
        self.counts["lists"] += 1
        self.pods = {_key(pod): pod for pod in items if DATASET in _annotations(pod)}
        self.listed_at = asked
        for release in self._records.read():
            self._take(release)
        for key, pod in self.pods.items():
            if _is_gated(pod):
                continue
            if key not in self._released:
                # The API server died before it could write its record, or has yet to.
                self._take(Release(key, time.time(), _UNKNOWN, _annotations(pod).get(NODE, ""), _digests(pod)))
            elsewhere = pod["spec"].get("nodeName")
            if elsewhere and _annotations(pod).get(NODE) not in {elsewhere, None}:
                self._tell("bound elsewhere", key, f"on {elsewhere}, released to {_annotations(pod)[NODE]}")

    # Judgements.

    def _judge(self) -> None:
        still = []
        for release in self._waiting:
            disk = self.disks.get(release.node)
            if disk is not None and disk.looked_at <= release.at:
                still.append(release)
                continue
            asked = self._asked(release.key)
            if not release.node and asked.get(ON_TIMEOUT) == "release":
                self.counts["by wish"] += 1
            elif disk is None:
                self._tell("no receipt", release.key, f"released by {release.by} for node {release.node!r}")
            else:
                self._judge_release(release, disk, asked.get(DATASET, ""))
        self._waiting = still

    def _judge_release(self, release: Release, disk: Disk, asked: str) -> None:
        uris = [uri.strip() for uri in asked.split(",")]
        problems = []
        if len(release.digests) != len(uris):
            problems.append(("wrong receipt", f"{len(release.digests)} snapshots for {asked}"))
        for digest, uri in zip(release.digests, uris, strict=False):
            sighting = disk.held(digest, release.at)
            if sighting is None:
                why = f"{digest[:12]} on {release.node} at {release.at:.3f}: {disk.history(digest)}"
                problems.append(("data was not there", why))
            elif why := _differs(sighting.files, self._contents(uri)):
                problems.append(("wrong content", f"{digest[:12]} of {uri} on {release.node}: {why}"))
        if problems and self._was_gone(release.key, disk.looked_at):
            self.counts["unjudged"] += 1  # its end freed the data before the look
            return
        self.counts["judged"] += 1
        for kind, why in problems:
            self._tell(kind, release.key, why)

    def _judge_living(self) -> None:
        """Check the Pods of the last list once more against the disks of the look that came after it."""
        suspects = set()
        for key, pod in self.pods.items():
            node = _annotations(pod).get(NODE, "")
            if _is_gated(pod) or node not in self.disks or _has_ended(pod):
                continue
            disk, uid = self.disks[node], pod["metadata"]["uid"]
            for place, digest in enumerate(_digests(pod)):
                if disk.held(digest, time.time()) is None:
                    suspects.add(_verdict("data is gone", key, f"{digest[:12]} on {node}"))
                elif (found := disk.link(uid, place)) != digest:
                    where = f"{uid}/{place} on {node} leads to {found[:12] or 'nothing'}, not to {digest[:12]}"
                    suspects.add(_verdict("wrong link", key, where))
        # Of two looks, since a folder of links is replaced by two renames.
        for verdict in suspects & self._suspects - set(self.verdicts):
            key = _key_of(verdict)
            if not self._was_gone(key, time.time()):
                self.verdicts.append(verdict)
        self._suspects = suspects

    def _was_gone(self, key: Key, at: float) -> bool:
        """Check whether the Pod may have been gone at that time, which is in the past."""
        if key in self._records.deleted:
            return self._records.deleted[key] < at
        namespace, name = key
        for _ in range(100):
            try:
                pod = self._api.find(f"/api/v1/namespaces/{namespace}/pods/{name}")
            except AWAY:
                time.sleep(_LIST_S)
                continue
            return pod is None or _has_ended(pod)
        return True

    def _asked(self, key: Key) -> Mapping[str, str]:
        return self._records.asked.get(key) or _annotations(self.pods.get(key, {"metadata": {}}))

    def _tell(self, kind: str, key: Key, why: str) -> None:
        verdict = _verdict(kind, key, why)
        if verdict not in self.verdicts:
            self.verdicts.append(verdict)


def _verdict(kind: str, key: Key, why: str) -> Verdict:
    return Verdict(kind, "/".join(key), why)


def _key_of(verdict: Verdict) -> Key:
    namespace, _, name = verdict.pod.partition("/")
    return namespace, name


def _differs(files: Mapping[str, str], contents: Mapping[str, set[str]]) -> str:
    if files.keys() != contents.keys():
        return f"files {sorted(files)}, uploaded were {sorted(contents)}"
    wrong = sorted(name for name, digest in files.items() if digest not in contents[name])
    return f"{wrong} never had these bytes" if wrong else ""


def _key(pod: Document) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _annotations(pod: Document) -> dict[str, str]:
    return pod["metadata"].get("annotations") or {}


def _digests(pod: Document) -> list[str]:
    return [digest for digest in _annotations(pod).get(SNAPSHOT, "").split(",") if digest]


def _is_gated(pod: Document) -> bool:
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or [])


def _has_ended(pod: Document) -> bool:
    return "deletionTimestamp" in pod["metadata"] or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}
