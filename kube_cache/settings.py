"""All configuration in one typed place: default, unit and environment name beside each field (the engine's in `storage.options`).

Read once, at process start, and passed down; nothing else in the project reads the environment. Names are
`KUBE_CACHE_<GROUP>__<FIELD>`. The ecosystem's own variables are honoured by the libraries that own them and are not
renamed here: `TEMPORAL_*` (temporalio.envconfig), `AWS_*` (botocore, with `AWS_ENDPOINT_URL_S3`), `OTEL_*`, `KUBECONFIG`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kube_cache.storage.options import EngineSettings

MIB = 1 << 20


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Group):
    """The node's store: KUBE_CACHE_STORE__*"""

    root: Path = Field(Path("/var/lib/kube-cache"), description="cache root; one filesystem, best an NVMe of its own")
    allow_root_disk: bool = Field(default=False, description="allow a root on the machine's root filesystem")
    min_free: float = Field(
        0.20, ge=0, lt=1, description="share of the filesystem kept free (the kubelet evicts at 0.10-0.15)"
    )
    min_free_inodes: float = Field(
        0.10, ge=0, lt=1, description="share of the filesystem's inodes kept free (the kubelet evicts at 0.05)"
    )
    capacity_bytes: int = Field(0, ge=0, description="most that the cache may hold; 0 = no limit of its own")
    capacity_share: float = Field(
        1.0, gt=0, le=1, description="most that the cache may hold, as a share of the filesystem"
    )
    keep_partial_s: float = Field(
        86400, ge=0, description="seconds that what a given-up download fetched is kept for its resumption"
    )
    quarantine_s: float = Field(
        7 * 86400, ge=0, description="seconds that an object with wrong bytes is kept for inspection"
    )
    scrub_bytes_per_s: int = Field(
        50 * MIB, ge=0, description="rate at which objects are read again against their checksums; 0 = never"
    )
    scrub_every_s: float = Field(
        7 * 86400, gt=0, description="seconds from the end of one background scrub to the beginning of the next"
    )
    watch_trust_s: float = Field(
        900, ge=0, description="seconds after which a snapshot is looked at anew though no event told of a change"
    )


class OperatorSettings(_Group):
    """The operator: KUBE_CACHE_OPERATOR__*"""

    namespace: str = Field("kube-cache-system", description="where seats live")
    progress_interval_s: float = Field(5, gt=0, description="least seconds between two progress writes to one Pod")
    linger_s: float = Field(60, ge=0, description="seconds that a download outlives its last interested Pod")
    max_gate_time_s: float = Field(0, ge=0, description="limit for Pods that name none; 0 = no limit")
    bind_grace_s: float = Field(
        60, gt=0, description="seconds a released Pod may stay unscheduled before an Event says so"
    )
    reconcile_interval_s: float = Field(300, gt=0, description="how often workflows, Pods and disks are compared")
    workflow_slots: int = Field(5000, ge=10, description="workflows kept in memory")
    seat_image: str = Field("registry.k8s.io/pause:3.10.1", description="image of the seat's only container")


class AgentSettings(_Group):
    """The agent: KUBE_CACHE_AGENT__*"""

    node: str = Field("", description="name of the Kubernetes node that this agent serves")
    slots: int = Field(64, ge=1, description="activities that may run or queue at once")
    concurrent_warms: int = Field(4, ge=1, description="datasets fetched at once; more wait their turn and say so")
    drain_s: float = Field(20, ge=0, description="seconds for running activities to stop after SIGTERM")


class TelemetrySettings(_Group):
    """Logs and metrics: KUBE_CACHE_TELEMETRY__*"""

    log_level: str = "INFO"
    log_format: str = Field("json", pattern="^(json|console)$")
    metrics_address: str = Field("", description="host:port of the Prometheus endpoint; empty = none")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="KUBE_CACHE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    engine: EngineSettings = EngineSettings()
    store: StoreSettings = StoreSettings()
    operator: OperatorSettings = OperatorSettings()
    agent: AgentSettings = AgentSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
