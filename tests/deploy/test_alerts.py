"""Each alert fires on the series that mean trouble, clears when it is over, and is silent about what is normal."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.deploy import monitoring
from tests.deploy.monitoring import FOLDER
from tools.servers import build

pytestmark = pytest.mark.needs_server("promtool")

LEADER = 'operator="leader"'
DISK = 'job="kube-cache-agent", node="a", disk="/c"'
TASKS = "temporal_workflow_task_schedule_to_start_latency_seconds_bucket"
QUEUE = "kube_cache_queue_seconds_bucket"


class Case(NamedTuple):
    name: str
    alert: str
    series: Mapping[str, str]
    """One sample a minute, in promtool's words: `0x9` is a 0 and nine more."""
    fires: int = 0
    """Minute at which the alert fires; 0 for never."""
    quiet: tuple[int, ...] = ()
    """Minutes at which the alert does not fire."""


def gauge(alert: str, series: str, values: str, *, name: str = "", fires: int = 20, after: int = 45) -> Case:
    """Well for ten minutes, then ill, then well again. values: of the three."""
    return Case(name or "trouble", alert, {series: values}, fires, (8, after))


CASES = [
    gauge("KubeCachePodGatedLong", f"kube_cache_oldest_gated_pod_seconds{{{LEADER}}}", "9x9 20000+60x19 9x29"),
    gauge("KubeCachePodUnattended", f"kube_cache_unattended_pod_seconds{{{LEADER}}}", "0x9 150+60x19 0x29"),
    gauge(
        "KubeCacheForecastFailing",
        'kube_cache_forecast_run_state{state="prometheus-down"}',
        "0x9 1x59 0x19",
        fires=45,
        after=80,
    ),
    gauge(
        "KubeCacheForecastFailing",
        f"kube_cache_forecast_success_age_seconds{{{LEADER}}}",
        "60x9 4000+60x59 60x19",
        name="no run ends",
        fires=45,
        after=80,
    ),
    gauge("KubeCachePrefetchesStuck", 'kube_cache_prefetches{phase="Waiting"}', "0x9 1x19 0x29", fires=28),
    Case(
        "warms for long",
        "KubeCachePrefetchesStuck",
        {'kube_cache_prefetches{phase="Warming"}': "3x50"},
        quiet=(8, 25, 45),
    ),
    Case(
        "trouble",
        "KubeCachePeerBanned",
        {'kube_cache_peer_banned_total{node="a"}': "0x9 1x90"},
        15,
        (8, 85),
    ),
    gauge(
        "KubeCacheCertificateExpiring",
        'kube_cache_peer_certificate_expiry_timestamp_seconds{node="a", of="node"}',
        "90000x9 0x19 90000x29",
        fires=25,
    ),
    gauge("KubeCachePodsAwaitOperator", 'kube_cache_gated_pods{phase="AwaitingOperator"}', "0x9 1x19 0x29"),
    Case(
        "waits",
        "KubeCachePodsAwaitOperator",
        {'kube_cache_gated_pods{phase="WaitingForCapacity"}': "0x9 100x50"},
        quiet=(8, 20, 45),
    ),
    Case(
        "trouble",
        "KubeCacheWarmsFailing",
        {
            'kube_cache_downloads_total{node="a", outcome="failed"}': "0x9 0+1x19 19x39",
            'kube_cache_downloads_total{node="b", outcome="failed"}': "0x9 0+1x19 19x39",
            'kube_cache_downloads_total{node="a", outcome="done"}': "0+1x69",
        },
        25,
        (8, 55),
    ),
    Case(
        "few of many",
        "KubeCacheWarmsFailing",
        {
            'kube_cache_downloads_total{node="a", outcome="failed"}': "0+1x69",
            'kube_cache_downloads_total{node="a", outcome="done"}': "0+30x69",
        },
        quiet=(20, 40, 60),
    ),
    gauge("KubeCacheAgentAbsent", 'up{job="kube-cache-agent", node="a"}', "1x9 0x19 1x29"),
    gauge("KubeCacheNodesSilent", 'kube_cache_reconcile_findings{finding="nodes_silent"}', "0x9 2x19 0x29", fires=28),
    Case(
        "full of pins",
        "KubeCacheDiskNearFloor",
        {
            f"kube_cache_disk_free_bytes{{{DISK}}}": "50x9 1x19 50x29",
            f"kube_cache_disk_used_bytes{{{DISK}}}": "50x9 99x19 50x29",
            f"kube_cache_disk_pinned_bytes{{{DISK}}}": "40x9 98x19 40x29",
            f"kube_cache_disk_capacity_bytes{{{DISK}}}": "100x59",
        },
        25,
        (8, 45),
    ),
    Case(
        "full of what nobody holds",
        "KubeCacheDiskNearFloor",
        {
            f"kube_cache_disk_free_bytes{{{DISK}}}": "0x59",
            f"kube_cache_disk_used_bytes{{{DISK}}}": "100x59",
            f"kube_cache_disk_pinned_bytes{{{DISK}}}": "10x59",
            f"kube_cache_disk_capacity_bytes{{{DISK}}}": "100x59",
        },
        quiet=(8, 25, 45),
    ),
    Case(
        "others fill the disk",
        "KubeCacheDiskNearFloor",
        {
            f"kube_cache_disk_free_bytes{{{DISK}}}": "50x9 -30x19 50x29",
            f"kube_cache_disk_used_bytes{{{DISK}}}": "20x59",
            f"kube_cache_disk_pinned_bytes{{{DISK}}}": "10x59",
            f"kube_cache_disk_capacity_bytes{{{DISK}}}": "100x59",
        },
        25,
        (8, 45),
    ),
    gauge("KubeCacheNoLeader", 'kube_cache_operator_leading{pod="a"}', "1x9 0x19 1x29"),
    gauge("KubeCacheNoLeader", 'kube_cache_operator_leading{pod="a"}', "1x9 _x20 1x29", name="no operator"),
    Case(
        "two",
        "KubeCacheNoLeader",
        {
            'kube_cache_operator_leading{pod="a"}': "1x59",
            'kube_cache_operator_leading{pod="b"}': "0x9 1x19 0x29",
        },
        20,
        (8, 45),
    ),
    Case(
        "handover",
        "KubeCacheNoLeader",
        {
            'kube_cache_operator_leading{pod="a"}': "1x9 0x49",
            'kube_cache_operator_leading{pod="b"}': "0x9 0x0 1x48",
        },
        quiet=(8, 12, 20, 45),
    ),
    gauge(
        "KubeCacheReconcileFailing",
        f"kube_cache_reconcile_success_age_seconds{{{LEADER}}}",
        "60x9 1000+60x19 60x29",
    ),
    gauge("KubeCacheReconcileFailing", f"kube_cache_reconcile_failures{{{LEADER}}}", "0x9 3x19 0x29", name="failures"),
    gauge(
        "KubeCacheReflectorStale",
        'kube_cache_watch_heard_timestamp_seconds{watch="pods"}',
        "0+60x9 540x19 1800+60x29",
        fires=25,
    ),
    gauge(
        "KubeCacheReflectorStale",
        'kube_cache_watch_errors_total{watch="pods"}',
        "0x9 0+6x19 114x39",
        name="errors",
        fires=25,
        after=55,
    ),
    Case(
        "workflow tasks",
        "KubeCacheTemporalBacklog",
        {
            f'{TASKS}{{task_queue="kube-cache-operator", le="1"}}': "0x69",
            f'{TASKS}{{task_queue="kube-cache-operator", le="10"}}': "0x9 0+10x19 190x39",
            f'{TASKS}{{task_queue="kube-cache-operator", le="+Inf"}}': "0x9 0+10x19 190x39",
        },
        25,
        (8, 45),
    ),
    Case(
        "activities, without the port of the SDK",
        "KubeCacheTemporalBacklog",
        {
            f'{QUEUE}{{queue="operator", le="5"}}': "0x69",
            f'{QUEUE}{{queue="operator", le="30"}}': "0x9 0+10x19 190x39",
            f'{QUEUE}{{queue="operator", le="+Inf"}}': "0x9 0+10x19 190x39",
        },
        25,
        (8, 45),
    ),
    Case(
        "downloads wait for their turn",
        "KubeCacheTemporalBacklog",
        {
            f'{QUEUE}{{queue="downloads", le="30"}}': "0x69",
            f'{QUEUE}{{queue="downloads", le="+Inf"}}': "0x9 0+10x59",
        },
        quiet=(8, 25, 45),
    ),
    Case(
        "trouble",
        "KubeCacheWorkflowsUnreplayable",
        {'kube_cache_workflows_unreplayable_total{pod="a"}': "0x9 2x90"},
        15,
        (8, 90),
    ),
]


def promtool(*words: str | Path) -> str:
    """Raises AssertionError with promtool's own words."""
    binary = build.ensure(["promtool"])["promtool"]
    done = subprocess.run([binary, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expected(case: Case, minute: int, *, firing: bool) -> dict[str, object]:
    expression = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if firing else []
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.name}")
def test_an_alert_fires_on_trouble_and_clears_after_it(case: Case, tmp_path: Path) -> None:
    checks = [expected(case, minute, firing=False) for minute in case.quiet]
    if case.fires:
        checks.append(expected(case, case.fires, firing=True))
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    # An alert that is not the case's must not depend on there being a leader.
    if case.alert != "KubeCacheNoLeader":
        series.append({"series": 'kube_cache_operator_leading{pod="x"}', "values": "1x120"})
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(FOLDER / "rules.yaml")],
                "evaluation_interval": "30s",
                "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}],
            }
        )
    )
    promtool("test", "rules", file)


def test_every_alert_is_made_to_fire_and_to_clear() -> None:
    covered = {case.alert for case in CASES if case.fires and max(case.quiet) > case.fires}
    assert covered == {alert["alert"] for alert in monitoring.alerts()}


def test_the_shipped_configuration_and_rules_are_sound(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yaml")
    # In the Pod the rules lie beside the configuration.
    shipped = (FOLDER / "prometheus.yaml").read_text()
    config = tmp_path / "prometheus.yaml"
    config.write_text(shipped.replace("/etc/prometheus/rules.yaml", str(FOLDER / "rules.yaml")))
    assert config.read_text() != shipped
    assert "SUCCESS" in promtool("check", "config", "--lint=all", "--lint-fatal", config)
