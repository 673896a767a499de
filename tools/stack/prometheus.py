"""A real Prometheus beside a stack, with the scrape configuration and the rules that are shipped.

In a cluster operator and agents are Pods. Here they are processes, so each gets a Pod object that says where its ports
are; what finds them is the shipped discovery, with the rights of the shipped ServiceAccount.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml

from kube_cache import names
from tools.servers import build
from tools.stack import api, environment, ports, probe
from tools.stack.processes import Process, StackError
from tools.stack.product import Part
from tools.stack.stack import Stack

SHIPPED = Path(__file__).parents[2] / "deploy" / "monitoring"
_ACCOUNT = ("Namespace", "ServiceAccount")  # its rights are in deploy.yaml, which the stack applies
_USER = "system:serviceaccount:monitoring:prometheus"
_READY_S = 60
_HTTP_S = 30


class Prometheus:
    """A context manager. interval_s: seconds between scrapes. pending_s: seconds for which an alert is pending."""

    def __init__(
        self, stack: Stack, *, interval_s: int = 1, pending_s: int = 2, shorter: Mapping[str, str] | None = None
    ) -> None:
        """shorter: part of the shipped rules' text -> what is in its place, where a threshold or window is long."""
        self._stack = stack
        self._shorter = shorter or {}
        self._interval_s = interval_s
        self._pending_s = pending_s
        self._folder = stack.state / "prometheus"
        self._announced: dict[str, list[str]] = {}
        """Names of the Pods that a process has had."""

    def __enter__(self) -> Self:
        binary = build.ensure(["prometheus"])["prometheus"]
        for document in api.documents(SHIPPED / "monitoring.yaml"):
            if document["kind"] in _ACCOUNT:
                self._stack.api.apply(document)
        self._folder.mkdir(exist_ok=True)
        rules, config = self._folder / "rules.yaml", self._folder / "prometheus.yaml"
        rules.write_text(yaml.safe_dump(self._rules()))
        config.write_text(yaml.safe_dump(self._config(rules)))

        def launch(chosen: list[int]) -> tuple[Process, str]:
            url = f"http://{ports.LOOPBACK}:{chosen[0]}"
            command: list[str | Path] = [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={ports.LOOPBACK}:{chosen[0]}",
            ]
            process = self._stack.processes.spawn("prometheus", command, environment.clean(self._stack.state))
            process.wait_until(lambda: probe.answers(f"{url}/-/ready"), "/-/ready", _READY_S)
            return process, url

        self._process, self.url = ports.binding(1, launch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()

    def announce(self, part: Part, component: str, node: str, more_ports: Mapping[str, int] | None = None) -> None:
        """Create the Pod object of a process, or another one after a restart. more_ports: by name.

        The other one has another name, as in a cluster: kwok deletes what is being deleted by name, and would take a
        new Pod of the same name with it.
        """
        listening = {"metrics": part.probe_port, **(more_ports or {})}
        path = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/pods"
        before = self._announced.get(part.name, [])
        if before:
            self._stack.api.delete(f"{path}/{before[-1]}", grace_s=0)
        name = f"{part.name}-{len(before)}" if before else part.name
        self._announced[part.name] = [*before, name]
        self._stack.api.request(
            "POST",
            path,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": {"app.kubernetes.io/name": "kube-cache", "app.kubernetes.io/component": component},
                },
                "spec": {
                    "nodeName": node,
                    "containers": [
                        {
                            "name": component,
                            "image": "registry.example/kube-cache:1",
                            "ports": [{"name": name, "containerPort": port} for name, port in listening.items()],
                        }
                    ],
                },
            },
        )
        status = {"phase": "Running", "podIP": ports.LOOPBACK, "podIPs": [{"ip": ports.LOOPBACK}]}
        self._stack.api.request("PATCH", f"{path}/{name}/status", {"status": status}, content_type=api.MERGE)

    def query(self, expression: str) -> list[Any]:
        """Return the series of now."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, seconds: float) -> list[Any]:
        """Return the series of the last seconds."""
        now = time.time()
        return self._ask("query_range", query=expression, start=now - seconds, end=now, step=self._interval_s)

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {series["metric"]["alertname"] for series in found}

    def targets(self) -> list[Any]:
        return list(self._get("targets", state="active")["activeTargets"])

    def _ask(self, what: str, **parameters: str | float) -> list[Any]:
        return list(self._get(what, **parameters)["result"])

    def _get(self, what: str, **parameters: str | float) -> Any:
        """Raises StackError for an expression that is none."""
        fields = {name: str(value) for name, value in parameters.items()}
        answer = urllib3.request("GET", f"{self.url}/api/v1/{what}", fields=fields, timeout=_HTTP_S).json()
        if answer["status"] != "success":
            raise StackError(f"prometheus refuses {parameters}: {answer['error']}")
        return answer["data"]

    def _config(self, rules: Path) -> Any:
        config = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())
        interval = f"{self._interval_s}s"
        config["global"] = dict.fromkeys(config["global"], interval)
        config["rule_files"] = [str(rules)]
        for job in config["scrape_configs"]:
            for found in job["kubernetes_sd_configs"]:
                found["kubeconfig_file"] = str(self._stack.cluster.user_kubeconfig(_USER))
        return config

    def _rules(self) -> Any:
        text = (SHIPPED / "rules.yaml").read_text()
        for shipped, short in self._shorter.items():
            if shipped not in text:
                raise StackError(f"no shipped rule has {shipped!r}")
            text = text.replace(shipped, short)
        rules = yaml.safe_load(text)
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = f"{self._pending_s}s"
        return rules
