"""The metrics of demand and of its forecast, all of the leading operator. `metrics` has the rules for all.

One of them names datasets, as no other metric does: a forecast is of each dataset's own demand, and Prometheus is
where its weeks are kept. The number of its series is bounded, and it exists only while the forecast is on.
"""

from __future__ import annotations

from typing import Final

from kube_cache.contracts.forecast import DatasetState, RunState
from kube_cache.telemetry.declarations import DECLARED, Capped

MAX_DEMANDED: Final = 300
RUN_STATES: Final = tuple(str(state) for state in RunState)
DATASET_STATES: Final = tuple(str(state) for state in DatasetState)
POLICIES: Final = ("ours", "reactive", "always-on")

DEMAND: Final = DECLARED.leader_gauge(
    "kube_cache_demand_copies",
    "Nodes on which Pods use a dataset now, or that are chosen for Pods that wait for it. Only while the forecast is on,"
    " which is what this metric is for; 0 of a dataset that was in use since this operator began to lead.",
    dataset=Capped(MAX_DEMANDED),
)
RUN_STATE: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_run_state",
    "1 for the state of the last run of the forecast, 0 for the others.",
    state=RUN_STATES,
)
AGE: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_success_age_seconds",
    "Seconds since the last run of the forecast that was ok; absent before the first.",
)
DATASETS: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_datasets", "Datasets with demand, by the state of their forecast.", state=DATASET_STATES
)
COPIES: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_copies",
    "Copies of all datasets together: in_use (by Pods now), wanted (idle ones that the forecast asks for), planned (idle"
    " ones that are had ready).",
    kind=("in_use", "wanted", "planned"),
)
PLACEHOLDERS: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_placeholder_pods",
    "Placeholder Pods for copies that are forecast: pending (no node takes them, which makes an autoscaler add one),"
    " running (they hold a node). Only while max_placeholders is above 0.",
    state=("pending", "running"),
)
WEEK_ARRIVALS: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_week_arrivals",
    "Arrivals of Pods in the last seven days that found their data (hit) or not (miss) by the plans of a policy: ours,"
    " reactive (nothing ahead), always-on (as many copies as were ever in use). Plans of forecast-only datasets count as"
    " if they had been carried out.",
    policy=POLICIES,
    outcome=("hit", "miss"),
)
WEEK_WASTED_BYTES: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_week_wasted_bytes",
    "Bytes of copies that the plans of the last seven days brought and that were retired before any Pod used them.",
    policy=POLICIES,
)
WEEK_IDLE_BYTE_SECONDS: Final = DECLARED.leader_gauge(
    "kube_cache_forecast_week_idle_byte_seconds",
    "Bytes of copies that were ready and not in use in the last seven days, times the seconds that they were.",
    policy=POLICIES,
)
