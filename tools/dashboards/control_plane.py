"""The operators: gate age, workflows by phase, reconcile, reflector, the Kubernetes API and Temporal."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import StackingMode

from tools.dashboards import links
from tools.dashboards.parts import dashboard, lines, number, rows

_OPEN = links.workflows("WorkflowType='WarmPod' AND ExecutionStatus='Running'", "Open warm-ups in Temporal")
_RUNS = links.workflows("WorkflowType='ReconcileCluster'", "Runs of the reconcile in Temporal")
_OPERATORS = links.traces('{ resource.service.name = "kube-cache-operator" }', "Traces of the operators in Tempo")
_QUEUE = '{task_queue="kube-cache-operator"}'


def build() -> Dashboard:
    made = dashboard(
        "kube-cache-control-plane", "Control plane", "Operators, their watches, Temporal and the reconcile."
    )
    return _processes(_neighbours(_temporal(_kubernetes(_reconcile(_pods(made))))))


def _pods(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Pods and workflows"))
        .with_panel(
            number(
                "Operators that lead",
                "One should.",
                "sum(kube_cache_operator_leading)",
                bad_from=2,
                lines_to=[_OPERATORS],
            )
        )
        .with_panel(
            number(
                "Gated Pods without a workflow",
                "Pods that nobody works for, at the last sweep.",
                "max(kube_cache_unattended_pods)",
                bad_from=1,
                lines_to=[_OPEN],
            )
        )
        .with_panel(
            number(
                "For how long",
                "Seconds since the sweep first found the longest waiting of them.",
                "max(kube_cache_unattended_pod_seconds)",
                unit="s",
                bad_from=120,
            )
        )
        .with_panel(
            number(
                "Oldest gated Pod",
                "Seconds since the creation of the oldest Pod that our gate holds.",
                "max(kube_cache_oldest_gated_pod_seconds)",
                unit="s",
                bad_from=4 * 3600,
                lines_to=[_OPEN],
            )
        )
        .with_panel(
            number(
                "Workflows nobody could replay",
                "Ended since the operators' start; others took their place.",
                "sum(kube_cache_workflows_unreplayable_total)",
                bad_from=1,
            )
        )
        .with_panel(
            number(
                "Late progress",
                "Seconds that the longest waiting of the due progress writes is late.",
                "max(kube_cache_progress_lag_seconds)",
                unit="s",
            )
        )
        .with_panel(
            lines(
                "Open workflows by phase",
                "Of warm-ups, at the last sweep. A released Pod keeps its workflow until it is bound.",
                {"{{phase}}": "sum by (phase) (kube_cache_workflows)"},
                stacked=StackingMode.NORMAL,
                lines_to=[_OPEN],
            )
        )
        .with_panel(
            lines(
                "Age of the oldest gated Pod, and of the longest unattended",
                "In seconds.",
                {
                    "gated": "max(kube_cache_oldest_gated_pod_seconds)",
                    "unattended": "max(kube_cache_unattended_pod_seconds)",
                },
                unit="s",
                lines_to=[_OPEN],
            )
        )
        .with_panel(
            lines(
                "Pods seen, and workflows started again",
                "Each within an hour. The sweep starts a workflow again where the last one is gone, by what became of it.",
                {
                    "seen": "sum(increase(kube_cache_pods_seen_total[1h]))",
                    "again: {{cause}}": "sum by (cause) (increase(kube_cache_workflows_restarted_total[1h]))",
                },
            )
        )
        .with_panel(
            lines(
                "Seats created, refused and lost",
                "Each within an hour. Lost: by the disruption that Kubernetes names.",
                {
                    "created": "sum(increase(kube_cache_seats_created_total[1h]))",
                    "refused: {{reason}}": "sum by (reason) (increase(kube_cache_seats_refused_total[1h]))",
                    "lost: {{cause}}": "sum by (cause) (increase(kube_cache_seats_lost_total[1h]))",
                },
                lines_to=[_OPERATORS],
            )
        )
    )


def _reconcile(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Reconcile"))
        .with_panel(
            number(
                "Since the last success",
                "Seconds. The reconcile runs every 5 minutes; after 15 it is an alert.",
                "max(kube_cache_reconcile_success_age_seconds)",
                unit="s",
                bad_from=900,
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            number(
                "Failures since",
                "Runs that have failed since the last one that succeeded.",
                "max(kube_cache_reconcile_failures)",
                bad_from=3,
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            number(
                "It took",
                "Seconds of the last run that succeeded.",
                "max(kube_cache_reconcile_duration_seconds)",
                unit="s",
            )
        )
        .with_panel(
            number(
                "Nodes that are silent",
                "Nodes with data whose agent did not answer the last run.",
                'max(kube_cache_reconcile_findings{finding="nodes_silent"})',
                bad_from=1,
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            number(
                "Disks that fail",
                "Nodes whose disk failed the last run.",
                'max(kube_cache_reconcile_findings{finding="nodes_faulty"})',
                bad_from=1,
            )
        )
        .with_panel(
            number(
                "Left out",
                "Pods, seats, nodes and workflows that the last run could not read, signal or delete.",
                'max(kube_cache_reconcile_findings{finding="skipped"})',
                bad_from=1,
            )
        )
        .with_panel(
            lines(
                "What the last reconcile found and mended",
                "Much of it again and again means that signals are lost.",
                {"{{finding}}": "max by (finding) (kube_cache_reconcile_findings)"},
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            lines(
                "Sweeps, starts and deliveries that failed",
                "Each within five minutes; each is tried again.",
                {
                    "sweeps": "sum(increase(kube_cache_sweeps_failed_total[5m]))",
                    "starts refused": "sum(increase(kube_cache_starts_refused_total[5m]))",
                    "deliveries": "sum(increase(kube_cache_deliveries_failed_total[5m]))",
                },
            )
        )
    )


def _kubernetes(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Reflector, and the Kubernetes API"))
        .with_panel(
            lines(
                "Seconds since a watch heard something",
                "A healthy watch hears a bookmark each minute.",
                {"{{watch}}": "max by (watch) (time() - kube_cache_watch_heard_timestamp_seconds)"},
                unit="s",
            )
        )
        .with_panel(
            lines(
                "Lag of events, 95 %",
                "Seconds from an event's arrival until the operator has handled it.",
                {
                    "{{watch}}": "histogram_quantile(0.95, sum by (le, watch)"
                    " (rate(kube_cache_watch_lag_seconds_bucket[$__rate_interval])))"
                },
                unit="s",
            )
        )
        .with_panel(
            lines(
                "Lists",
                "Complete lists within an hour: one at the start, then one each 10 to 15 minutes. More: watches break.",
                {"{{watch}}": "sum by (watch) (increase(kube_cache_watch_lists_total[1h]))"},
            )
        )
        .with_panel(
            lines(
                "Requests by answer",
                "Each second. 429 is the API server's word for too many.",
                {"{{code}}": "sum by (code) (rate(kube_cache_kube_requests_total[$__rate_interval])) > 0"},
                stacked=StackingMode.NORMAL,
            )
        )
        .with_panel(
            lines(
                "Seconds of a request, 95 %",
                "By verb.",
                {
                    "{{verb}}": "histogram_quantile(0.95, sum by (le, verb)"
                    " (rate(kube_cache_kube_request_seconds_bucket[$__rate_interval])))"
                },
                unit="s",
            )
        )
        .with_panel(
            lines(
                "Progress written on Pods",
                "Each second, by outcome. refused: an admission policy is against it; releases go on.",
                {"{{outcome}}": "sum by (outcome) (rate(kube_cache_progress_writes_total[$__rate_interval]))"},
            )
        )
    )


def _temporal(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Temporal, as the operators' SDK sees it (KUBE_CACHE_TELEMETRY__TEMPORAL_METRICS_ADDRESS)"))
        .with_panel(
            lines(
                "Seconds in the operators' queue",
                "Until an operator takes a task, 95 %: workflow tasks, and activities. The backlog.",
                {
                    "workflow tasks": "histogram_quantile(0.95, sum by (le) (rate("
                    f"temporal_workflow_task_schedule_to_start_latency_seconds_bucket{_QUEUE}[$__rate_interval])))",
                    "activities": "histogram_quantile(0.95, sum by (le)"
                    ' (rate(kube_cache_queue_seconds_bucket{queue="operator"}[$__rate_interval])))',
                },
                unit="s",
                lines_to=[_OPEN],
            )
        )
        .with_panel(
            lines(
                "Slots that are free",
                "Of each kind of worker. None free: operators are full, and the backlog grows.",
                {"{{worker_type}}": f"sum by (worker_type) (temporal_worker_task_slots_available{_QUEUE})"},
            )
        )
        .with_panel(
            lines(
                "Workflows in memory",
                "Cached by the operators; one that is not cached is replayed from its history.",
                {"cached": f"sum(temporal_sticky_cache_size{_QUEUE})"},
            )
        )
        .with_panel(
            lines(
                "Requests to Temporal",
                "Each second, by operation, of the ten most frequent.",
                {"{{operation}}": "topk(10, sum by (operation) (rate(temporal_request_total[$__rate_interval])))"},
            )
        )
    )


def _neighbours(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Nodes that feed each other"))
        .with_panel(
            number(
                "Certificates that end soon",
                "Agents that have none that lasts another six hours; it is renewed eight hours before its end.",
                "fleet:kube_cache_peer_certificate_ends_soon:count",
                bad_from=1,
            )
        )
        .with_panel(
            number(
                "Neighbours banned",
                "Within the last hour, because they sent other bytes than the origin's; no Pod has seen those.",
                "fleet:kube_cache_peer_banned:increase1h",
                bad_from=1,
            )
        )
        .with_panel(
            lines(
                "What the issuer answers",
                "Requests of agents for a certificate, each hour: issued, denied, invalid, or unanswered (the API server did "
                "not tell whose the token is).",
                {"{{result}}": "3600 * sum by (result) (rate(kube_cache_certificates_total[$__rate_interval]))"},
            )
        )
    )


def _processes(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Processes"))
        .with_panel(
            lines(
                "Memory of the operators",
                "Resident memory of each process.",
                {"{{pod}}": 'max by (pod) (process_resident_memory_bytes{job="kube-cache-operator"})'},
                unit="bytes",
            )
        )
        .with_panel(
            lines(
                "CPU of the operators",
                "Cores in use.",
                {
                    "{{pod}}": 'max by (pod) (rate(process_cpu_seconds_total{job="kube-cache-operator"}[$__rate_interval]))'
                },
            )
        )
        .with_panel(
            lines(
                "Processes that answer",
                "Of each kind, and how many there are.",
                {"{{job}} answer": "sum by (job) (up)", "{{job}} are there": "count by (job) (up)"},
            )
        )
        .with_panel(
            rows(
                "Agents that do not answer",
                "The agent's Pod is there, and its port is silent.",
                'count by (node, pod) (up{job="kube-cache-agent"} == 0)',
            )
        )
    )
