"""Settings of the forecast: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default and meaning stand beside each field; the environment's names are KUBE_CACHE_FORECAST__<FIELD>. Does not read the
environment. Imports no model: each process loads this file, and agents do not forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt, Le

from kube_cache.errors import InvalidRequest

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error
DEMAND: Final = (
    "max by (dataset) (max_over_time(kube_cache_demand_copies[5m]))"
    " or 0 * max by (dataset) (last_over_time(kube_cache_demand_copies[8d]))"
    " and on () (max(kube_cache_operator_leading) == 1)"
)
"""Copies in use by our own metric. A dataset that nobody uses since the operator was started has no series, which would
be a gap; where an operator leads and the dataset was used within eight days, no Pod uses the dataset: zero."""
SPEED: Final = (
    "sum(increase(kube_cache_download_speed_bytes_per_second_sum[7d]))"
    " / sum(increase(kube_cache_download_speed_bytes_per_second_count[7d]))"
)
_MAX_LEAD_S: Final = 6 * 3600


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """Settings of the forecast, `KUBE_CACHE_FORECAST__*`. The operator reads them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    enabled: bool = False
    """Forecast demand and prefetch ahead of it."""
    prometheus_url: str = "http://prometheus.monitoring:9090"
    """Where Prometheus' `/api/v1` is, with a path before it where a proxy wants one."""
    prometheus_timeout_s: Annotated[float, Gt(0), Le(120)] = 30
    """Seconds that a request and its answer may take."""
    prometheus_token_file: str = ""
    """File with a bearer token, read for each request; empty = none."""
    prometheus_ca_file: str = ""
    """File with the authorities of https, in PEM; empty = the system's."""
    expression: str = DEMAND
    """PromQL that counts copies in use at once, one series for each dataset."""
    dataset_label: str = "dataset"
    """Label of the series that holds the URI of the dataset."""
    speed_expression: str = SPEED
    """PromQL that gives the bytes per second of one download, for the lead; where it gives nothing,
    `KUBE_CACHE_OPERATOR__REFETCH_BYTES_PER_S` counts."""
    namespace: str = "default"
    """Namespace whose Pods must be allowed the datasets."""
    node_selector: str = ""
    """Labels of the nodes that may be chosen, `key=value` between commas; empty = all with an agent."""
    time_zone: str = "UTC"
    """Where the people are whose habits make the demand, as `Europe/Berlin`."""
    step_s: Annotated[int, Ge(30), Le(3600)] = 300
    """Seconds of a slot, and between two plans."""
    weeks: Annotated[int, Ge(2), Le(8)] = 4
    """Weeks of demand that are read."""
    lead_s: Annotated[int, Ge(0), Le(_MAX_LEAD_S)] = 0
    """Seconds ahead of which copies are ready; 0 = twice what a download took of late, `min_lead_s` at least."""
    min_lead_s: Annotated[int, Ge(0), Le(_MAX_LEAD_S)] = 600
    """Seconds of lead at least, where it is measured."""
    min_hit_rate: Annotated[float, Ge(0), Le(1)] = 0.7
    """Share of arrivals that the backtest must hit for a dataset's plans to be carried out."""
    max_wasted: Annotated[float, Ge(0)] = 0.5
    """Copies that the backtest may bring in vain, for each arrival."""
    wanted_hit_rate: Annotated[float, Ge(0), Le(1)] = 0.98
    """Share of arrivals to hit, for which the headroom is chosen."""
    min_days: Annotated[float, Ge(8)] = 14
    """Days of demand that must be known."""
    max_copies: Annotated[int, Ge(0)] = 20
    """Idle copies at once, of all datasets together."""
    max_bytes: Annotated[int, Ge(0)] = 20 << 40
    """Bytes of the idle copies at once, of all datasets together."""
    max_bytes_per_s: Annotated[int, Ge(0)] = 0
    """Bytes per second that the downloads ahead may take, for each dataset; 0 = no limit."""
    max_placeholders: Annotated[int, Ge(0), Le(500)] = 0
    """Placeholder Pods at once, of all datasets together, for which an autoscaler adds nodes ahead; 0 = none."""
    placeholder_resources: str = "nvidia.com/gpu=1"
    """What each of them asks for, `resource=quantity` between commas: as much as a Pod of the rush."""
    placeholder_tolerations: str = "nvidia.com/gpu,amd.com/gpu"
    """Taints that they tolerate: `key`, `key=value` or `key=value:Effect` between commas."""
    judge_every_s: Annotated[int, Ge(600)] = 86_400
    """Seconds between two looks of the gate at a dataset, some two CPU-seconds each."""
    max_memory_bytes: Annotated[int, Ge(256 << 20)] = 512 << 20
    """Bytes of address space that the process which forecasts may take, within the operator's limit: beyond, the run
    fails and says so, and the operator lives."""

    def __post_init__(self) -> None:
        """Raises ValueError for a time zone that is not known, where it matters: it reads the tz database."""
        if self.enabled:
            from kube_cache.forecast.wall_time import zone  # noqa: PLC0415 -- agents, which never forecast, load this file

            try:
                zone(self.time_zone)
            except InvalidRequest as error:
                raise ValueError(error.message) from error

    def lead_for(self, bytes_each: int, bytes_per_s: float) -> int:
        """Return the seconds of lead of a dataset. bytes_per_s: of a download."""
        if self.lead_s:
            return self.lead_s
        return min(_MAX_LEAD_S, max(self.min_lead_s, int(2 * bytes_each / bytes_per_s)))
