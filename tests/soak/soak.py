"""One soak: disturb and observe for some minutes, be quiet, judge every Pod, delete them, and count what is left.

The parts are in the modules beside this one; this one knows the order and the times.
"""

from __future__ import annotations

import os
import platform
import random
import threading
import time
from collections import Counter

from tests.soak import leaks, logs
from tests.soak.disturbances import Disturbances
from tests.soak.observer import AWAY, Observer
from tests.soak.origin import KIB, Origin
from tests.soak.population import Population
from tests.soak.reasons import Cluster
from tests.soak.report import Report
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import Document, KubeApi
from tools.stack.buckets import Bucket
from tools.stack.priority_classes import PriorityClasses

CAPACITY = 48 << 20
"""Bytes of each node's cache: a fraction of all snapshots, so that evictions are frequent."""
NODES = 4
DATASETS = 6
TARGET = 24
"""Pods that live at once."""
# The waits of a cluster are shortened, so that each is met within minutes.
OPERATOR_ENV = {
    "KUBE_CACHE_OPERATOR__RECONCILE_INTERVAL_S": "30",
    "KUBE_CACHE_OPERATOR__SWEEP_INTERVAL_S": "10",
    "KUBE_CACHE_OPERATOR__NODE_EXCLUSION_S": "30",
    "KUBE_CACHE_OPERATOR__GROUP_HOLD_S": "30",
    "KUBE_CACHE_OPERATOR__LINGER_S": "10",
    "KUBE_CACHE_OPERATOR__BIND_GRACE_S": "20",
}
AGENT_ENV = {"KUBE_CACHE_STORE__CAPACITY_BYTES": str(CAPACITY)}
_DISTURB_EVERY_S = (0.5, 4.0)
_ACT_EVERY_S = (0.1, 0.6)
_PATIENCE_S = 3.0
"""Longest that a request of the soak waits for the API server, which may be paused."""
_QUIET_S = 60.0
"""The part of the time, at its end, in which nothing is disturbed; it takes longer if Pods are not settled by then."""
_SETTLE_S = 300.0
_OWN_END_S = 20.0
_SWEEP_S = 120.0
_MAX_EVENTS_PER_POD_MINUTE = 30
_CLASSES = ((-5, "PreemptLowerPriority"), (10, "PreemptLowerPriority"), (1000, "PreemptLowerPriority"), (50, "Never"))


def stack() -> Stack:
    return Stack(node_count=NODES, count_s3=True, operator_env=OPERATOR_ENV, agent_env=AGENT_ENV)


class Soak:
    """Run once. Needs a stack of `stack()`, in which nobody else makes Pods. minutes: the last one is quiet."""

    def __init__(self, stack: Stack, seed: int, minutes: float) -> None:
        self._stack = stack
        self._minutes = minutes
        self.report = Report(
            seed, minutes, f"{os.cpu_count()} CPUs, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
        )
        # A source of chance for each thread, so that neither depends on the pace of the other.
        self._pace = random.Random(f"{seed}/pace")
        stack.add_operator()
        classes = PriorityClasses(stack.api)
        self._origin = Origin(Bucket(stack.s3, f"soak-{seed}"), random.Random(f"{seed}/origin"), DATASETS)
        namespaces = [f"soak-{number}" for number in range(3)]
        for namespace in namespaces:
            stack.cluster.create_namespace(namespace, exempt=namespace == namespaces[-1])
        hasty = KubeApi(stack.kubeconfig, timeout_s=_PATIENCE_S)
        self._population = Population(
            hasty,
            random.Random(f"{seed}/population"),
            self._origin,
            namespaces=namespaces,
            classes=[classes.create(value, policy) for value, policy in _CLASSES],
            nodes=stack.nodes,
            target=TARGET,
        )
        self._disturbances = Disturbances(stack, hasty, random.Random(f"{seed}/disturbances"))
        self._observer = Observer(
            KubeApi(stack.kubeconfig, timeout_s=_PATIENCE_S),
            stack.state / "audit.log",
            {node: stack.cache_root(node) for node in stack.nodes},
            self._origin.contents,
        )

    def run(self) -> Report:
        began = time.monotonic()
        self._observer.start()
        try:
            self._disturb()
            self._disturbances.calm()
            self._settle()
            self._delete_and_count()
        finally:
            self._observer.stop()
            self._fill_report(time.monotonic() - began)
        return self.report

    def _disturb(self) -> None:
        over = threading.Event()
        errors: list[BaseException] = []

        def live() -> None:
            pace = random.Random(f"{self.report.seed}/pods")
            try:
                while not over.wait(pace.uniform(*_ACT_EVERY_S)):
                    self._population.act()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=live, name="population", daemon=True)
        thread.start()
        end = time.monotonic() + max(self._minutes * 60 - _QUIET_S, self._minutes * 40)
        following = 0.0
        while time.monotonic() < end and not errors:
            self._disturbances.tick()
            if time.monotonic() >= following:
                self._disturbances.act()
                following = time.monotonic() + self._pace.uniform(*_DISTURB_EVERY_S)
            time.sleep(0.05)
        over.set()
        thread.join(60)
        if errors:
            raise errors[0]

    def _settle(self) -> None:
        """Wait until each Pod is bound, or waits for a true reason."""
        began = time.monotonic()
        calmed = False
        while True:
            self._disturbances.tick()
            try:
                if not calmed:
                    self._population.calm()
                    calmed = True
                self._population.resume()  # an operator that was away obeys, and tells, later than it was asked
                problems = self._problems()
            except AWAY:
                problems = ["the API server is away"]
            self.report.settled_s = time.monotonic() - began
            if not problems or self.report.settled_s > _SETTLE_S:
                break
            time.sleep(1)
        self.report.untrue = problems
        self._observer.wait_listed()
        for pod in self._population.pods():
            outcome = "bound" if kubernetes.node(pod) else str(kubernetes.condition(pod).get("reason"))
            self.report.outcomes[outcome] = self.report.outcomes.get(outcome, 0) + 1
        self._count_events()

    def _problems(self) -> list[str]:
        api = self._stack.api
        cluster = Cluster(
            api.get("/api/v1/pods")["items"],
            api.get("/api/v1/nodes")["items"],
            self._observer.disks,
            CAPACITY,
            lambda pod: 9000 * KIB * (pod["metadata"]["annotations"]["x-openai/required-dataset"].count(",") + 1),
        )
        found = [(_name(pod), cluster.problem(pod)) for pod in self._population.pods()]
        return [f"{name} {problem}" for name, problem in found if problem]

    def _count_events(self) -> None:
        """Count Events by reason, and name Pods that were told more than anybody would read."""
        by_pod: Counter[str] = Counter()
        by_reason: Counter[str] = Counter()
        for event in self._stack.api.get("/apis/events.k8s.io/v1/events")["items"]:
            if event.get("reason") == "Preempted":  # the scheduler's
                by_reason["Preempted"] += 1
            if event.get("reportingController") != "kube-cache.openai.com":
                continue
            regarding = event.get("regarding", {})
            count = (event.get("series") or {}).get("count", 1)
            by_pod[f"{regarding.get('namespace')}/{regarding.get('name')}"] += count
            by_reason[event.get("reason", "")] += count
        ages = {_name(pod): _age_minutes(pod) for pod in self._population.pods()}
        for pod, count in by_pod.items():
            if count > _MAX_EVENTS_PER_POD_MINUTE * max(1.0, ages.get(pod, self._minutes)):
                self.report.event_storms.append(f"{pod}: {count} Events")
        self.report.events = dict(by_reason) | {"most of one Pod": max(by_pod.values(), default=0)}

    def _delete_and_count(self) -> None:
        self._population.delete_all()
        disks = self._observer.disks
        own_end = leaks.wait(self._stack, disks, _OWN_END_S)
        leaks.sweep(self._stack, disks)
        self.report.leaks = leaks.wait(self._stack, disks, _SWEEP_S)
        self.report.failed_workflows = leaks.failed_workflows(self._stack)
        self.report.found_by_sweeps = {
            kind: len(set(left) - set(self.report.leaks[kind])) for kind, left in own_end.items()
        }

    def _fill_report(self, wall_s: float) -> None:
        report, observer = self.report, self._observer
        report.wall_s = wall_s
        report.mistakes = logs.mistakes(part.log for part in (*self._stack.operators, *self._stack.agents.values()))
        report.pods = dict(self._population.acts)
        report.disturbances = dict(self._disturbances.counts)
        report.ended_by_themselves = dict(self._disturbances.parts.ended)
        report.last_words = self._disturbances.parts.last_words
        report.observed = dict(observer.counts)
        report.cold_releases = observer.cold
        report.verdicts = [f"{each.kind}: {each.pod}: {each.why}" for each in observer.verdicts]


def _name(pod: Document) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _age_minutes(pod: Document) -> float:
    from datetime import datetime

    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
    return (time.time() - created) / 60
