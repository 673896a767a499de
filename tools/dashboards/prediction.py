"""The forecast: whether it acts, what it plans, and what its plans were worth beside reactive and always-on.

Empty where the forecast is off. Names datasets in one panel, as the metric behind it does; `kube-cache forecast URI`
shows the curve and the plan of one.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import StackingMode

from tools.dashboards import links
from tools.dashboards.parts import dashboard, lines, number

_RUNS = links.workflows("WorkflowType='Forecast'", "Runs of the forecast, in Temporal")
_PREFETCHES = links.workflows(
    "WorkflowType='Prefetch' AND ExecutionStatus='Running'", "Prefetches that live, in Temporal"
)
_GIB_HOURS = f"{3600 * (1 << 30)}"


def build() -> Dashboard:
    made = dashboard(
        "kube-cache-prediction", "Prediction", "Demand, the copies that are planned for it, and what plans were worth."
    )
    return _score(_plan(_state(made)))


def _state(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Does it act?"))
        .with_panel(
            number(
                "Datasets that it acts for",
                "The gate is open: what was planned for them in the last week would have hit often enough, with little waste.",
                'sum(kube_cache_forecast_datasets{state="acting"})',
                lines_to=[_PREFETCHES],
            )
        )
        .with_panel(
            number(
                "Forecast-only",
                "Datasets whose gate is closed: plans are made and scored, and move nothing. `kube-cache forecast` says why.",
                'sum(kube_cache_forecast_datasets{state="forecast-only"})',
            )
        )
        .with_panel(
            number(
                "Since a run that was ok",
                "Seconds. Without a run no plan is made, and the copies of the last one stay until their end.",
                "max(kube_cache_forecast_success_age_seconds)",
                unit="s",
                bad_from=3600,
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            number(
                "Hits of the last week",
                "Share of arrivals that found their data by our plans, as if all of those had been carried out.",
                'sum(kube_cache_forecast_week_arrivals{policy="ours", outcome="hit"})'
                ' / sum(kube_cache_forecast_week_arrivals{policy="ours"})',
                unit="percentunit",
            )
        )
        .with_panel(
            number(
                "Wasted in the last week",
                "Bytes of copies that our plans brought and that were retired before any Pod used them.",
                'sum(kube_cache_forecast_week_wasted_bytes{policy="ours"})',
                unit="bytes",
            )
        )
        .with_panel(
            number(
                "Idle, of always-on",
                "Bytes times hours that our copies were ready and unused, as a share of keeping the highest number for good.",
                'sum(kube_cache_forecast_week_idle_byte_seconds{policy="ours"})'
                ' / sum(kube_cache_forecast_week_idle_byte_seconds{policy="always-on"})',
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "State of the last run",
                "ok, or why no plan was made: Prometheus is down, refuses the expression, answers in part or finds nothing.",
                {"{{state}}": "max by (state) (kube_cache_forecast_run_state) > 0"},
                lines_to=[_RUNS],
            )
        )
        .with_panel(
            lines(
                "Datasets by state",
                "acting, forecast-only, unjudged (the gate has not looked yet), or what is wrong with the history.",
                {"{{state}}": "sum by (state) (kube_cache_forecast_datasets)"},
                stacked=StackingMode.NORMAL,
            )
        )
    )


def _plan(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Curve and plan"))
        .with_panel(
            lines(
                "Copies of all datasets",
                "in_use by Pods now; idle ones that the forecast wants; idle ones that are planned, within budget and gate.",
                {"{{kind}}": "sum by (kind) (kube_cache_forecast_copies)"},
                lines_to=[_PREFETCHES, links.traces()],
            )
        )
        .with_panel(
            lines(
                "Placeholder Pods",
                "pending: no node takes them, so that an autoscaler adds one; running: they hold a node for the rush.",
                {"{{state}}": "sum by (state) (kube_cache_forecast_placeholder_pods)"},
            )
        )
        .with_panel(
            lines(
                "Copies in use, of the ten datasets with the most",
                "What the forecast learns from, unless another expression was set.",
                {"{{dataset}}": "topk(10, max by (dataset) (kube_cache_demand_copies))"},
            )
        )
    )


def _score(made: Dashboard) -> Dashboard:
    return (
        made.with_row(Row("Score of the last seven days"))
        .with_panel(
            lines(
                "Hits by policy",
                "Share of arrivals that found their data. Reactive has none: nothing is there ahead.",
                {
                    "{{policy}}": 'sum by (policy) (kube_cache_forecast_week_arrivals{outcome="hit"})'
                    " / sum by (policy) (kube_cache_forecast_week_arrivals)"
                },
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "Arrivals by our plans",
                "Hits and misses of the last seven days.",
                {"{{outcome}}": 'sum by (outcome) (kube_cache_forecast_week_arrivals{policy="ours"})'},
                stacked=StackingMode.NORMAL,
            )
        )
        .with_panel(
            lines(
                "Wasted bytes by policy",
                "Of copies that were brought and retired before any Pod used them.",
                {"{{policy}}": "sum by (policy) (kube_cache_forecast_week_wasted_bytes)"},
                unit="bytes",
            )
        )
        .with_panel(
            lines(
                "Idle GiB-hours by policy",
                "Of copies that were ready and not in use.",
                {"{{policy}}": f"sum by (policy) (kube_cache_forecast_week_idle_byte_seconds) / {_GIB_HOURS}"},
            )
        )
    )
