"""One node: its disk, what its downloads do, who pins what, and what was evicted."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import StackingMode

from tools.dashboards import links
from tools.dashboards.parts import dashboard, lines, node_variable, number

_ENTITIES = links.workflows(
    "WorkflowType='DatasetOnNode' AND KcNode='${node}' AND ExecutionStatus='Running'", "Datasets of this node, Temporal"
)
_TRACES = links.traces(
    '{ resource.service.name = "kube-cache-agent" && resource.k8s.node.name = "${node}" }', "Traces of this node, Tempo"
)
_HERE = '{node="$node"}'


def build() -> Dashboard:
    made = dashboard("kube-cache-node", "Node", "The disk, the downloads, the pins and the evictions of one node.")
    return _process(_downloads(_disk(made.with_variable(node_variable()))))


def _disk(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Disk of $node"))
        .with_panel(
            number(
                "Answers",
                "1 if the agent answered the last scrape.",
                'min(up{job="kube-cache-agent", node="$node"})',
                lines_to=[_ENTITIES],
            )
        )
        .with_panel(
            number(
                "A download can get",
                "Share of the cache that is free, or held by nobody and thus evicted for the next download.",
                f"min(node:kube_cache_disk_available:ratio{_HERE})",
                unit="percentunit",
            )
        )
        .with_panel(
            number(
                "Capacity",
                "Maximum size of the cache, by its settings.",
                f"sum(kube_cache_disk_capacity_bytes{_HERE})",
                unit="bytes",
            )
        )
        .with_panel(
            number(
                "Disk",
                "Size of the file system that holds the cache.",
                f"sum(kube_cache_disk_size_bytes{_HERE})",
                unit="bytes",
            )
        )
        .with_panel(
            number(
                "Snapshots",
                "Snapshots on the disk, pinned or not.",
                f"sum(kube_cache_disk_snapshots{_HERE})",
                lines_to=[_ENTITIES],
            )
        )
        .with_panel(
            number(
                "Corrupt objects",
                "Objects with wrong or unreadable bytes since the agent's start, which went into quarantine.",
                f"sum(kube_cache_corrupt_objects_total{_HERE})",
                bad_from=1,
            )
        )
        .with_panel(
            lines(
                "Space",
                "Used: objects, parts and quarantine. Pinned: snapshots that a Pod or a person holds (shared objects "
                "count twice). Reserved: what running downloads have yet to write. Free: what downloads may use without "
                "an eviction; negative when others took too much.",
                {
                    "used": f"sum(kube_cache_disk_used_bytes{_HERE})",
                    "pinned": f"sum(kube_cache_disk_pinned_bytes{_HERE})",
                    "reserved": f"sum(kube_cache_disk_reserved_bytes{_HERE})",
                    "free": f"sum(kube_cache_disk_free_bytes{_HERE})",
                    "capacity": f"sum(kube_cache_disk_capacity_bytes{_HERE})",
                },
                unit="bytes",
            )
        )
        .with_panel(
            lines(
                "Prefetched, and unused since",
                "Bytes of snapshots that a prefetch brought and no Pod has used: kept (evicted last) or unwanted (evicted "
                "first). Neither holds up a Pod that needs the room.",
                {"{{state}}": f"sum by (state) (kube_cache_disk_prefetched_bytes{_HERE})"},
                unit="bytes",
                stacked=StackingMode.NORMAL,
            )
        )
        .with_panel(
            lines(
                "Evicted bytes",
                "Bytes per second that evictions gave back: for room (a download needs it), for pressure (others use "
                "the disk), or by request.",
                {"{{reason}}": f"sum by (reason) (rate(kube_cache_evicted_bytes_total{_HERE}[$__rate_interval]))"},
                unit="Bps",
                stacked=StackingMode.NORMAL,
            )
        )
        .with_panel(
            lines(
                "Evictions",
                "Snapshots evicted within an hour, by the same reasons.",
                {"{{reason}}": f"sum by (reason) (increase(kube_cache_evictions_total{_HERE}[1h]))"},
            )
        )
        .with_panel(
            lines(
                "Proof of the bytes that landed",
                "transport-only: the origin keeps no checksum, so only size and version were compared.",
                {"{{proof}}": f"sum by (proof) (rate(kube_cache_proved_bytes_total{_HERE}[$__rate_interval]))"},
                unit="Bps",
                stacked=StackingMode.NORMAL,
            )
        )
    )


def _downloads(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Downloads"))
        .with_panel(
            lines(
                "Throughput",
                "Received from the origin, and written to the disk.",
                {
                    "received": f"sum(rate(kube_cache_received_bytes_total{_HERE}[$__rate_interval]))",
                    "written": f"sum(rate(kube_cache_written_bytes_total{_HERE}[$__rate_interval]))",
                },
                unit="Bps",
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Downloads in the agent",
                "That run, and that wait for their turn; and the connections to the origin.",
                {
                    "{{state}}": f"sum by (state) (kube_cache_downloads_in_progress{_HERE})",
                    "connections": f"sum(kube_cache_connections{_HERE})",
                },
                lines_to=[_ENTITIES, _TRACES],
            )
        )
        .with_panel(
            lines(
                "Seconds in Temporal's queues",
                "From the scheduling of an activity until the agent took it, 95 %: short work, and downloads.",
                {
                    "{{queue}}": "histogram_quantile(0.95, sum by (le, queue)"
                    f" (rate(kube_cache_queue_seconds_bucket{_HERE}[$__rate_interval])))"
                },
                unit="s",
            )
        )
        .with_panel(
            lines(
                "Ranges requested again",
                "By cause, and ranges that were offered to a second connection because the first was slow.",
                {
                    "{{cause}}": f"sum by (cause) (rate(kube_cache_range_retries_total{_HERE}[$__rate_interval]))",
                    "hedged": f"sum(rate(kube_cache_range_hedges_total{_HERE}[$__rate_interval]))",
                },
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Downloads that ended",
                "Within an hour: done, failed, or cancelled (nobody waits any more, or the agent stops).",
                {"{{outcome}}": f"sum by (outcome) (increase(kube_cache_downloads_total{_HERE}[1h]))"},
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Bytes by bucket",
                "Bytes per second that landed from the origin; the first 20 buckets since the agent's start by name.",
                {"{{bucket}}": f"sum by (bucket) (rate(kube_cache_bucket_bytes_total{_HERE}[$__rate_interval]))"},
                unit="Bps",
                stacked=StackingMode.NORMAL,
            )
        )
    )


def _process(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Agent"))
        .with_panel(
            lines(
                "Memory of the agent",
                "Resident memory of the process.",
                {"resident": 'sum(process_resident_memory_bytes{job="kube-cache-agent", node="$node"})'},
                unit="bytes",
            )
        )
        .with_panel(
            lines(
                "CPU of the agent",
                "Cores in use.",
                {
                    "cores": 'sum(rate(process_cpu_seconds_total{job="kube-cache-agent", node="$node"}[$__rate_interval]))'
                },
            )
        )
    )
