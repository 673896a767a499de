"""Plays the demo: starts the stack, uploads data, applies Pods, watches them to the end, and checks every promise."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.units import format_bytes
from tools.demo import checks, source, summary
from tools.demo.checks import Actor, Check
from tools.demo.inside import Inside
from tools.demo.plan import BUCKET, GPUS, MIB, Plan, Role
from tools.demo.rows import Row, row
from tools.demo.view import View
from tools.stack import Stack, control_plane, env_file, pods, waiting
from tools.stack.api import Document
from tools.stack.pods import Pods

_POLL_S = 0.2
_GRACE_S = 120
"""Seconds beyond the time that the downloads take at their limit; what has not happened then fails a check."""


def run(plan: Plan, console: Console, *, keep: bool) -> int:
    """Play and check; return the exit code, 0 when every promise was kept."""
    agent = {"KUBE_CACHE_ENGINE__MAX_BYTES_PER_S": str(plan.max_bytes_per_s)} if plan.max_bytes_per_s else {}
    # Every second: on loopback a download is over before the default of five seconds would report twice.
    operator = {"KUBE_CACHE_OPERATOR__PROGRESS_INTERVAL_S": "1"}

    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    with (
        Stack(
            node_count=plan.nodes, gpus=GPUS, count_s3=True, agent_env=agent, operator_env=operator, report=say
        ) as stack,
        Inside(stack.temporal_address, stack.temporal_namespace) as inside,
    ):
        play = _Play(plan, stack, inside, console)
        actors = play.perform()
        results = play.check(actors)
        console.print(summary.table(actors))
        for result in results:
            print_check(console, result)
        broken = [result for result in results if not result.passed]
        say(
            f"{len(results) - len(broken)} of {len(results)} checks passed"
            + ("" if not broken else "; see the red ones")
        )
        if keep:
            _keep_running(stack, say)
        return 1 if broken else 0


def print_check(console: Console, check: Check) -> None:
    mark = Text("  ok  ", "green") if check.passed else Text("FAILED", "bold red")
    console.print(Text.assemble(mark, f" {check.promise}: ", Text(check.compared, "dim")), soft_wrap=True)


class _Served(NamedTuple):
    """The state before the late Pods: bytes that S3 has served, and the nodes with Pods that asked for data."""

    bytes: int
    nodes: set[str]


class _Play:
    def __init__(self, plan: Plan, stack: Stack, inside: Inside, console: Console) -> None:
        assert stack.s3_proxy is not None
        self._plan = plan
        self._stack = stack
        self._proxy = stack.s3_proxy
        self._inside = inside
        self._view = View(console)
        self._console = console
        self._pods = Pods(stack.api, control_plane.USER_NAMESPACE)
        self._cast: list[tuple[Role, Document]] = []
        self._sources: dict[str, dict[str, str]] = {}
        self._before_late = _Served(0, set())

    def perform(self) -> list[Actor]:
        self._upload()
        early = [role for role in self._plan.roles if not role.late]
        self._await_admission(early[0])
        with self._view.open():
            # The README's Pod asks for a whole node and is created first, or the others might leave no node whole.
            self._enter(early[:1])
            self._watch(lambda rows: rows[0].phase not in _BEFORE_WARMING)
            self._enter(early[1:])
            self._watch(lambda rows: all(row.settled for row in rows))
            late = [role for role in self._plan.roles if role.late]
            if late:
                nodes = {self._pods.get(role.name)["spec"].get("nodeName", "") for role in early if role.dataset}
                self._before_late = _Served(self._proxy.bytes_served(BUCKET), nodes - {""})
                self._enter(late)
                self._watch(lambda rows: all(row.settled for row in rows))
        return [self._actor(role, created) for role, created in self._cast]

    def check(self, actors: list[Actor]) -> list[Check]:
        @cache
        def on_disk(folder: Path) -> dict[str, str]:
            return checks.hashes(folder)

        results = []
        for actor in actors:
            releases = self._stack.audit.releases(self._pods.namespace, actor.name)
            if actor.role.dataset is None:
                results.append(checks.held_with_reason(actor, self._pods.events(actor.name)))
                continue
            folder = checks.current(self._stack.cache_root(actor.node), actor.role.dataset)
            content = on_disk(folder) if actor.node else {}
            results.append(checks.bound_where_the_data_is(actor, content, self._sources[actor.role.dataset.uri]))
            results.append(checks.receipt_is_true(actor))
            results.append(checks.released_once(actor, releases, control_plane.OPERATOR_USER))
        results += [checks.spec_untouched(actor) for actor in actors]
        for dataset in (self._plan.large, self._plan.small):
            nodes = {actor.node for actor in actors if actor.role.dataset == dataset and actor.node}
            served = self._proxy.bytes_served(BUCKET, f"{dataset.prefix}/")
            if nodes or served:
                results.append(checks.one_copy_a_node(dataset, nodes, served))
        before = self._before_late
        for actor in actors:
            if actor.role.late:
                meanwhile = self._proxy.bytes_served(BUCKET) - before.bytes
                results.append(checks.late_was_a_hit(actor, meanwhile, had_it=actor.node in before.nodes))
        return [*results, checks.nothing_left(self._seats(), self._unfinished())]

    def _upload(self) -> None:
        self._stack.s3.create_bucket(BUCKET)
        for dataset in (self._plan.large, self._plan.small):
            started = time.monotonic()
            self._sources[dataset.uri] = source.upload(self._stack.s3, dataset)
            self._say(
                f"data: {dataset.uri}, {len(dataset.sizes)} objects, {format_bytes(dataset.bytes)},"
                f" uploaded in {time.monotonic() - started:.1f} s"
            )
        if limit := self._plan.max_bytes_per_s:
            self._say(
                f"note: each agent is held to {format_bytes(limit)}/s, or loopback is too quick to watch (DEMO_MIB_PER_S=0: no cap)"
            )

    def _await_admission(self, role: Role) -> None:
        """Wait until admission adds what the README's Pod leaves out, some three seconds after the cluster is up."""
        path = f"/api/v1/namespaces/{self._pods.namespace}/pods"

        def is_gated() -> bool:
            return bool(pods.gates(self._stack.api.request("POST", path, role.document, dryRun="All")))

        waiting.true(is_gated, "the admission policies are in effect")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _enter(self, roles: list[Role]) -> None:
        for role in roles:
            created = self._pods.create(role.document)
            self._cast.append((role, created))
            self._inside.watch(_workflow_id(created))

    def _watch(self, done: Callable[[list[Row]], bool]) -> None:
        """Show the rows until they are done, or until it is too late: then the checks name what is missing."""
        size = self._plan.large.bytes + self._plan.small.bytes
        timeout_s = _GRACE_S + 2 * size / (self._plan.max_bytes_per_s or 50 * MIB)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            rows = self._rows()
            self._view.show(rows)
            if done(rows):
                return
            time.sleep(_POLL_S)

    def _rows(self) -> list[Row]:
        documents = {pod["metadata"]["uid"]: pod for pod in self._pods.all()}
        picture = self._inside.picture
        return [
            row(role, documents[created["metadata"]["uid"]], _workflow_id(created), picture)
            for role, created in self._cast
        ]

    def _actor(self, role: Role, created: Document) -> Actor:
        result = self._inside.result(_workflow_id(created)) if role.dataset else None
        return Actor(role, created, self._pods.get(role.name), result)

    def _seats(self) -> list[str]:
        return [seat["metadata"]["name"] for seat in Pods(self._stack.api, control_plane.SEATS_NAMESPACE).all()]

    def _unfinished(self) -> list[str]:
        incoming = [self._stack.cache_root(node) / "incoming" for node in self._stack.nodes]
        return [str(path) for folder in incoming if folder.exists() for path in folder.iterdir() if path.is_file()]


_BEFORE_WARMING = ("Seen", Phase.RESOLVING, Phase.PLACING, Phase.CHECKING)


def _workflow_id(pod: Document) -> str:
    meta = pod["metadata"]
    return names.warm_pod_id(meta["namespace"], meta["name"], meta["uid"])


def _keep_running(stack: Stack, say: Callable[[str], None]) -> None:
    env = env_file.under(stack.state)
    env_file.write(env, stack.user_environment())
    say(
        f"KEEP: everything stays up until Ctrl-C\n"
        f"  Temporal UI  {stack.temporal.ui}/namespaces/{stack.temporal_namespace}/workflows\n"
        f"  a shell      set -a; . {env}; set +a; kubectl get pods; kubectl describe pod typo"
    )
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
