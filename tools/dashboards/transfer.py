"""Where the time of a warm-up goes: its steps one after another, and what connections do while bytes come.

Steps have a duration each. Of the stages of ranges many connections are in several at once, so their seconds are added
up and compared: the largest share is the bottleneck.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import StackingMode

from kube_cache.telemetry.stages import OF_STEPS, Stage
from tools.dashboards import links
from tools.dashboards.parts import FULL, HALF, bars, dashboard, found_traces, lines, quantiles

_TRACES = links.traces()
_STREAMS = links.workflows("WorkflowType='DatasetOnNode' AND KcPhase='Warming'", "Downloads that run, in Temporal")


def build() -> Dashboard:
    made = dashboard("kube-cache-transfer", "Transfer waterfall", "Seconds of each stage of a warm-up, all nodes.")
    return _traces(_bytes(_steps(made)))


def _steps(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Steps of a warm-up, in their order"))
        .with_panel(
            bars(
                "Mean seconds of each step",
                "Over the time of this dashboard. The stream is the whole download, with its own wait, resolve and "
                "publish.",
                {stage: _mean(stage) for stage in OF_STEPS},
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Seconds that steps take, added up",
                "Seconds of each step within a second, stacked: how many warm-ups are in it at once.",
                {"{{stage}}": "sum by (stage) (rate(kube_cache_stage_seconds_sum[$__rate_interval]))"},
                stacked=StackingMode.NORMAL,
                lines_to=[_TRACES, _STREAMS],
            )
        )
        .with_panel(
            lines(
                "Seconds of each step, 95 %",
                "Over five minutes.",
                {"{{stage}}": "histogram_quantile(0.95, fleet:kube_cache_stage_seconds_bucket:rate5m)"},
                unit="s",
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Seconds from created to bound",
                "Of all Pods, hits included.",
                quantiles("kube_cache_pod_warmup_seconds"),
                unit="s",
                lines_to=[_TRACES],
            )
        )
    )


def _bytes(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("While bytes come: network, decryption, checksums, disk"))
        .with_panel(
            lines(
                "Connections by what they do",
                "Seconds that connections spend in a stage, each second, stacked: wait (throttled, or after a failure), "
                "first_byte, network, decrypt (CPU time of TLS), verify (checksums), write.",
                {"{{stage}}": "fleet:kube_cache_transfer_seconds:rate5m"},
                stacked=StackingMode.NORMAL,
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Shares of the stages",
                "The same in per cent: the largest share is the bottleneck.",
                {"{{stage}}": "fleet:kube_cache_transfer_seconds:rate5m"},
                stacked=StackingMode.PERCENT,
                lines_to=[_TRACES],
            )
        )
        .with_panel(
            lines(
                "Decryption against network",
                "Seconds of CPU for TLS per second of waiting for the network. Above 1 the CPU is the bottleneck.",
                {
                    "decrypt / network": 'fleet:kube_cache_transfer_seconds:rate5m{stage="decrypt"}'
                    ' / ignoring (stage) fleet:kube_cache_transfer_seconds:rate5m{stage="network"}'
                },
            )
        )
        .with_panel(
            lines(
                "Speed of one download",
                "Mean speed of each download, publication included.",
                quantiles("kube_cache_download_speed_bytes_per_second"),
                unit="Bps",
            )
        )
        .with_panel(
            lines(
                "Bytes of all nodes",
                "Received from the origin, and landed from it: the difference was fetched in vain, or is on its way.",
                {
                    "received": "fleet:kube_cache_received_bytes:rate5m",
                    "landed": 'fleet:kube_cache_landed_bytes:rate5m{source="origin"}',
                },
                unit="Bps",
                width=HALF,
            )
        )
        .with_panel(
            lines(
                "Ranges requested again, all nodes",
                "By cause: throttled, stalled, credentials, unavailable, checksum.",
                {"{{cause}}": "sum by (cause) (rate(kube_cache_range_retries_total[$__rate_interval]))"},
                lines_to=[_TRACES],
            )
        )
    )


def _traces(made: Dashboard) -> Dashboard:
    return made.with_row(Row("Traces")).with_panel(
        found_traces(
            "The latest traces",
            "One trace is one Pod, from the watcher's sight of it to bound. Click one for its waterfall.",
            links.ALL_TRACES,
            width=FULL,
        )
    )


def _mean(stage: Stage) -> str:
    both = [f'sum(increase(kube_cache_stage_seconds_{part}{{stage="{stage}"}}[$__range]))' for part in ("sum", "count")]
    return " / ".join(both)
