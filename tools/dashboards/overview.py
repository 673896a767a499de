"""The dashboard to begin with: what is warming, how often the data was there already, and what that saved."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import StackingMode

from tools.dashboards import links
from tools.dashboards.parts import dashboard, lines, number, quantiles, rows

_WARMING = links.workflows("WorkflowType='WarmPod' AND ExecutionStatus='Running'", "Open warm-ups in Temporal")
_PREFETCHES = links.workflows(
    "WorkflowType='Prefetch' AND ExecutionStatus='Running'", "Prefetches that live, in Temporal"
)
_FAILING = links.workflows(
    "WorkflowType='WarmPod' AND ExecutionStatus='Running' AND KcPhase='AwaitingOperator'",
    "Pods that wait for a person, in Temporal",
)


def build() -> Dashboard:
    made = dashboard("kube-cache-overview", "Overview", "What is warming, the hit ratio, and GPU time not held.")
    return _trouble(_ahead(_savings(_warming(made))))


def _warming(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Warming now"))
        .with_panel(
            number(
                "Gated Pods",
                "Pods that our gate holds, in whatever phase.",
                "sum(kube_cache_gated_pods)",
                lines_to=[_WARMING],
            )
        )
        .with_panel(
            number(
                "Downloads that run",
                "Downloads of all agents that have their turn.",
                'fleet:kube_cache_downloads_in_progress:sum{state="running"}',
            )
        )
        .with_panel(
            number(
                "Downloads that wait",
                "Downloads that wait for their turn in an agent.",
                'fleet:kube_cache_downloads_in_progress:sum{state="queued"}',
            )
        )
        .with_panel(
            number(
                "Speed of all downloads",
                "Bytes per second that all agents write now.",
                "fleet:kube_cache_download_bytes_per_second:sum",
                unit="Bps",
            )
        )
        .with_panel(
            number(
                "Oldest gated Pod",
                "Seconds since the creation of the oldest Pod that our gate holds.",
                "max(kube_cache_oldest_gated_pod_seconds)",
                unit="s",
                bad_from=4 * 3600,
                lines_to=[_WARMING],
            )
        )
        .with_panel(
            number(
                "Cache in use",
                "Share of all caches that holds data. A full cache is normal: what nobody pins is evicted for the next.",
                "fleet:kube_cache_disk_used_bytes:sum / fleet:kube_cache_disk_capacity_bytes:sum",
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "Gated Pods by phase",
                "What the gated Pods wait for. Their condition DatasetReady has the same word, and says more.",
                {"{{phase}}": "sum by (phase) (kube_cache_gated_pods) > 0"},
                stacked=StackingMode.NORMAL,
                lines_to=[_WARMING],
            )
        )
        .with_panel(
            lines(
                "Where bytes come from",
                "Bytes per second that downloads needed: from the origin, resumed (an earlier attempt had them), or "
                "present (another snapshot's object, not fetched).",
                {"{{source}}": "fleet:kube_cache_landed_bytes:rate5m"},
                unit="Bps",
                stacked=StackingMode.NORMAL,
                lines_to=[links.traces()],
            )
        )
    )


def _savings(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Hits and savings, over the time of this dashboard"))
        .with_panel(
            number(
                "Pods that hit",
                "Share of the released Pods whose node had all of their data.",
                'sum(increase(kube_cache_releases_total{kind="hit"}[$__range]))'
                " / sum(increase(kube_cache_releases_total[$__range]))",
                unit="percentunit",
            )
        )
        .with_panel(
            number(
                "Bytes that hit",
                "The same by bytes of data instead of Pods.",
                'sum(increase(kube_cache_released_bytes_total{kind="hit"}[$__range]))'
                " / sum(increase(kube_cache_released_bytes_total[$__range]))",
                unit="percentunit",
            )
        )
        .with_panel(
            number(
                "Pods released warm",
                "Pods that were released with every byte verified on their node.",
                "sum(increase(gpu_prewarm_success_total[$__range]))",
            )
        )
        .with_panel(
            number(
                "GPU-hours not held",
                "GPU time that Pods would have held while their data was fetched, had they been bound first. Only the "
                "time from the check of the disk to the release counts, and only of Pods that missed.",
                "sum(increase(kube_cache_gpu_not_held_seconds_total[$__range])) / 3600",
                unit="h",
            )
        )
        .with_panel(
            number(
                "Dollars not spent on them",
                "The same at the price of a GPU-hour in the operator's settings.",
                "sum(increase(kube_cache_gpu_not_held_dollars_total[$__range]))",
                unit="currencyUSD",
            )
        )
        .with_panel(
            number(
                "GPU-hours reserved by seats",
                "GPU time that seats reserved, hits included. Pods that are more important could use those GPUs.",
                "sum(increase(kube_cache_seat_gpu_seconds_total[$__range])) / 3600",
                unit="h",
            )
        )
        .with_panel(
            lines(
                "Releases",
                "Released Pods a minute: hit, miss (something was fetched), cold (their owner chose not to wait).",
                {"{{kind}}": "60 * sum by (kind) (rate(kube_cache_releases_total[$__rate_interval]))"},
                stacked=StackingMode.NORMAL,
                lines_to=[links.traces()],
            )
        )
        .with_panel(
            lines(
                "Seconds from created to released",
                "Of Pods that hit and of Pods that missed.",
                quantiles("kube_cache_pod_gate_seconds", by="kind"),
                unit="s",
                lines_to=[links.traces()],
            )
        )
    )


def _ahead(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Data that is there before the Pod"))
        .with_panel(
            number(
                "Prefetches that live",
                "Whatever their phase.",
                "sum(kube_cache_prefetches)",
                lines_to=[_PREFETCHES],
            )
        )
        .with_panel(
            number(
                "Await a person",
                "Prefetches whose datasets cannot be listed, and a retry alone cannot help.",
                'sum(kube_cache_prefetches{phase="AwaitingOperator"})',
                bad_from=1,
                lines_to=[_PREFETCHES],
            )
        )
        .with_panel(
            number(
                "Speed of prefetches",
                "Bytes per second that downloads of prefetches bring to all nodes, counted when an object is whole.",
                "fleet:kube_cache_prefetched_bytes:rate5m",
                unit="Bps",
            )
        )
        .with_panel(
            number(
                "Prefetched and unused",
                "Bytes on all disks that no Pod has used since a prefetch brought them, and that a prefetch still wants.",
                'fleet:kube_cache_disk_prefetched_bytes:sum{state="kept"}',
                unit="bytes",
            )
        )
        .with_panel(
            number(
                "Copies that were used",
                "Prefetched snapshots that a Pod has used, over the time of this dashboard.",
                'sum(increase(kube_cache_prefetch_hits_total{use="first"}[$__range]))',
            )
        )
        .with_panel(
            number(
                "Copies in vain",
                "Prefetched snapshots that were evicted before any Pod had used them, over the same time.",
                "sum(increase(kube_cache_prefetched_unused_evictions_total[$__range]))",
            )
        )
        .with_panel(
            lines(
                "Prefetches by phase",
                "Waiting: nothing can be done now (nodes, room or budget are missing). AwaitingOperator: a person must act.",
                {"{{phase}}": "sum by (phase) (kube_cache_prefetches)"},
                stacked=StackingMode.NORMAL,
                lines_to=[_PREFETCHES],
            )
        )
        .with_panel(
            lines(
                "What became of prefetched data",
                "Each minute: Pods that found a prefetched snapshot (its first Pod, and later ones), and attempts that stood "
                "back for a Pod's download, at their begin or half-way.",
                {
                    "used: {{use}}": "60 * fleet:kube_cache_prefetch_hits:rate5m",
                    "stood back: {{when}}": "60 * fleet:kube_cache_prefetch_yields:rate5m",
                },
            )
        )
    )


def _trouble(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Trouble"))
        .with_panel(
            rows(
                "Alerts that fire",
                "Each alert's annotation runbook_url names the page that says what to do.",
                'sum by (alertname, severity, node, watch) (ALERTS{alertname=~"KubeCache.*", alertstate="firing"})',
                lines_to=[_FAILING],
            )
        )
        .with_panel(
            lines(
                "Errors by reason",
                "Activities that failed, each second. Most are retried; NoRoomYet is a Pod that waits for space.",
                {"{{reason}}": "fleet:kube_cache_errors:rate5m > 0"},
                lines_to=[links.traces(links.FAILED_TRACES, "Traces with an error in Tempo"), _FAILING],
            )
        )
        .with_panel(
            rows(
                "Nodes whose cache is the fullest of pins",
                "Share of the cache that a download can get: free, or held by nobody. The 20 nodes with the least.",
                "bottomk(20, node:kube_cache_disk_available:ratio)",
                unit="percentunit",
                series_to=[links.node_dashboard()],
            )
        )
        .with_panel(
            rows(
                "Nodes whose downloads fail",
                "Downloads that failed within the last hour, of the 20 nodes with the most.",
                'topk(20, sum by (node) (increase(kube_cache_downloads_total{outcome="failed"}[1h])))',
                series_to=[links.node_dashboard()],
            )
        )
    )
