"""All configuration in one place: the settings that each part declares, read once from the environment.

Names are `KUBE_CACHE_<GROUP>__<FIELD>`; default, unit and bounds stand beside each field. Only `cli` imports this
module: it passes each part what that part declares, and nothing else in the project reads the environment. The
ecosystem's own variables are honoured by the libraries that own them and are not renamed here: `TEMPORAL_*`
(temporalio.envconfig), `AWS_*` (botocore, with `AWS_ENDPOINT_URL_S3`), `KUBECONFIG`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt
from pydantic_settings import BaseSettings, SettingsConfigDict

from kube_cache.engine.settings import EngineSettings
from kube_cache.origin.settings import OriginSettings
from kube_cache.store.settings import StoreSettings

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """Settings of the operator, `KUBE_CACHE_OPERATOR__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    namespace: str = "kube-cache-system"
    """Namespace of the seats."""
    progress_interval_s: Annotated[float, Gt(0)] = 5
    """Minimum seconds between two progress writes to one Pod."""
    linger_s: Annotated[float, Ge(0)] = 60
    """Seconds that a download outlives the last Pod that waits for it."""
    max_gate_time_s: Annotated[float, Ge(0)] = 0
    """Limit in seconds for Pods that name none; 0 = no limit."""
    bind_grace_s: Annotated[float, Gt(0)] = 60
    """Seconds that a released Pod may stay unscheduled before an Event says so."""
    node_exclusion_s: Annotated[float, Ge(0)] = 600
    """Seconds that a Pod avoids a node without a living agent, or one whose disk rejected the Pod's data."""
    reconcile_interval_s: Annotated[float, Gt(0)] = 300
    """Seconds between two comparisons of workflows, Pods and disks."""
    workflow_slots: Annotated[int, Ge(10)] = 5000
    """Maximum number of workflows kept in memory."""
    seat_image: str = "registry.k8s.io/pause:3.10.1"
    """Image of the seat's only container."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Settings of the agent, `KUBE_CACHE_AGENT__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    node: str = ""
    """Name of the Kubernetes node that this agent serves."""
    slots: Annotated[int, Ge(1)] = 64
    """Maximum number of activities that run or queue at once."""
    concurrent_downloads: Annotated[int, Ge(1)] = 4
    """Maximum number of datasets downloaded at once; more wait their turn and say so."""
    drain_s: Annotated[float, Ge(0)] = 20
    """Seconds for running activities to stop after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Settings of the logs, `KUBE_CACHE_TELEMETRY__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"


class Settings(BaseSettings):
    """Raises pydantic.ValidationError, which names the variable."""

    model_config = SettingsConfigDict(
        env_prefix="KUBE_CACHE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    engine: EngineSettings = EngineSettings()
    origin: OriginSettings = OriginSettings()
    store: StoreSettings = StoreSettings()
    operator: OperatorSettings = OperatorSettings()
    agent: AgentSettings = AgentSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
