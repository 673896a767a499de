"""All configuration in one place: the settings that each part declares, read once from the environment.

Names are `KUBE_CACHE_<GROUP>__<FIELD>`; default, unit and bounds stand beside each field. Only `cli` imports this
module: it passes each part what that part declares, and nothing else in the project reads the environment. The
ecosystem's own variables are honoured by the libraries that own them and are not renamed here: `TEMPORAL_*`
(temporalio.envconfig), `AWS_*` (botocore, with `AWS_ENDPOINT_URL_S3`), `KUBECONFIG`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kube_cache import names
from kube_cache.engine.settings import EngineSettings
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.kube.cache_nodes import parse_selector
from kube_cache.kube.mounts import DEFAULT_ROOT
from kube_cache.kube.placeholder_terms import parse_resources, parse_tolerations
from kube_cache.origin.settings import OriginSettings
from kube_cache.peers.settings import PeerSettings
from kube_cache.store.settings import StoreSettings

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """Settings of the operator, `KUBE_CACHE_OPERATOR__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    namespace: str = names.SEATS_NAMESPACE
    """Namespace of the seats (placeholder Pods), and of the Lease that owns them. Nothing else may live there."""
    progress_interval_s: Annotated[float, Gt(0)] = 15
    """Minimum seconds between two progress writes to one Pod; each tenth of the data is written at once."""
    linger_s: Annotated[float, Ge(0)] = 60
    """Seconds that a download outlives the last Pod that waits for it."""
    max_gate_time_s: Annotated[float, Ge(0)] = 0
    """Seconds that a Pod without the annotation `max-gate-time` may stay gated; 0 = no limit."""
    bind_grace_s: Annotated[float, Gt(0)] = 60
    """Seconds that a released Pod may stay unscheduled before an Event says so."""
    group_hold_s: Annotated[float, Ge(0)] = 600
    """Seconds that a group of Pods holds the nodes that it has while others of it find none; then it gives them all
    back for a while, so that another group can be complete; 0 = never."""
    node_exclusion_s: Annotated[float, Ge(0)] = 600
    """Seconds that a Pod avoids a node without a living agent, one whose disk rejected its data, or one unfit twice."""
    new_node_s: Annotated[float, Ge(0)] = 300
    """Seconds after a node's creation in which a Pod waits for its agent: a new node pulls images first."""
    node_grace_s: Annotated[float, Ge(0)] = 40
    """Seconds that a node may be not ready before the Pods that are warmed there go elsewhere."""
    refetch_bytes_per_s: Annotated[float, Gt(0)] = 1e9
    """Assumed rate of a download, bytes per second. An agent that is away in the middle of one is waited for as long as
    what is on its disk would take to fetch elsewhere at this rate, at most 10 minutes."""
    reconcile_interval_s: Annotated[float, Gt(0)] = 300
    """Seconds between two comparisons of workflows, Pods and disks."""
    sweep_interval_s: Annotated[float, Gt(0)] = 30
    """Seconds between two searches for gated Pods without an open workflow."""
    prefetch_look_s: Annotated[float, Gt(0)] = 60
    """Seconds between two looks of a prefetch at the nodes and at what they hold, while nothing changes."""
    workflow_slots: Annotated[int, Ge(10)] = 250
    """Maximum number of workflows kept in memory, 65 to 120 KiB each. One that is not costs the operator 2 to 4 ms of
    CPU more when it is woken, and Temporal as much: raise it where more Pods than this are often warmed at once."""
    lease_duration_s: Annotated[float, Ge(3)] = 10
    """Seconds after its last renewal at which a leading operator counts as dead, and another takes over."""
    lease_renew_s: Annotated[float, Gt(0)] = 2
    """Seconds between two renewals, or two looks at the leader's."""
    identity: str = ""
    """Name under which this operator holds the Lease; empty = the host's name, which in a cluster is the Pod's."""
    seat_image: str = "registry.k8s.io/pause:3.10.1"
    """Image of the seat's only container."""
    node_selector: str = ""
    """Labels of the nodes that have an agent, `key=value` between commas: no seat goes to others; empty = all nodes."""
    seat_deadline_s: Annotated[int, Ge(0)] = 21600
    """Seconds after which a bound seat ends by itself, should nobody delete it; 0 = never. A Pod that still needs its
    seat then gets another.
    """
    gpu_dollars_per_hour: Annotated[float, Ge(0)] = 4
    """Price of a GPU in dollars, for the metric `kube_cache_gpu_not_held_dollars_total`."""
    page_address: str = ""
    """`host:port` of the page for people; without a host (`:9466`) of the loopback, empty = none. It has no login."""
    peer_key_file: str = ""
    """File with the private Ed25519 key, in PEM, that signs what a node may read from its neighbours; empty = no node
    reads from another."""
    peer_certificate_file: str = ""
    """File with the certificate of that key, in PEM, where it is also the authority of the nodes' certificates."""
    peer_authority: str = ""
    """Name of a Secret, and of a ConfigMap for agents, in which operators keep the authority: the first one makes it.
    They write its key and certificate to the two files above, whose folder should be in memory; empty = the files are
    there."""
    issuer_address: str = ""
    """`host:port` on which agents get their certificates, signed with that key; port 0 = any free one, empty = agents
    have certificates of others."""
    rack_label: str = ""
    """Label of nodes whose value is the rack: neighbours in one are asked before others. Told with a certificate, as is
    the zone of `topology.kubernetes.io/zone`; empty = nodes have no racks."""
    cache_root: str = DEFAULT_ROOT
    """Folder of the cache on the nodes, as Pods mount it: must be the agents' `KUBE_CACHE_STORE__ROOT`, seen from the
    node."""

    def __post_init__(self) -> None:
        """Raises ValueError for a selector that cannot be understood, and for an issuer without its authority."""
        parse_selector(self.node_selector)
        for name in ("issuer_address", "peer_authority"):
            if getattr(self, name) and not (self.peer_key_file and self.peer_certificate_file):
                raise ValueError(
                    f"{name} needs peer_key_file and peer_certificate_file, the authority that signs certificates"
                )


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Settings of the agent, `KUBE_CACHE_AGENT__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    node: str = ""
    """Name of the Kubernetes node that this agent serves (`spec.nodeName` by the downward API); needed."""
    slots: Annotated[int, Ge(1)] = 64
    """Maximum number of activities at once, apart from downloads: checks, unpins, `kube-cache store --node`."""
    download_slots: Annotated[int, Ge(1)] = 64
    """Maximum number of downloads that run or wait for their turn in the agent; more wait in Temporal."""
    concurrent_downloads: Annotated[int, Ge(1)] = 4
    """Maximum number of datasets downloaded at once; more wait their turn and say so on their Pods."""
    drain_s: Annotated[float, Ge(0)] = 20
    """Seconds for running activities to stop after SIGTERM. Keep it some 10 s below the Pod's
    `terminationGracePeriodSeconds`: what is killed then has its last two seconds of bytes fetched again."""


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Settings of logs, probes and metrics, `KUBE_CACHE_TELEMETRY__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    log_level: str = "INFO"
    """A level of Python's logging."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`console` is text for people; `auto` is text on a terminal, else JSON."""
    http_address: str = "0.0.0.0:9464"
    """`host:port` of /healthz, /readyz and /metrics; port 0 = any free one, which the log tells; empty = none."""
    temporal_metrics_address: str = ""
    """`IP:port` of the metrics of Temporal's SDK, under `/metrics`; empty = none."""


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
    forecast: ForecastSettings = ForecastSettings()
    agent: AgentSettings = AgentSettings()
    peers: PeerSettings = PeerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _check_selectors(self) -> Self:
        """Raise ValueError for a selector that cannot be understood, before a prefetch has it."""
        parse_selector(self.forecast.node_selector)
        parse_tolerations(self.forecast.placeholder_tolerations)
        if not parse_resources(self.forecast.placeholder_resources) and self.forecast.max_placeholders:
            raise ValueError(
                "KUBE_CACHE_FORECAST__PLACEHOLDER_RESOURCES is empty, and placeholder Pods that ask for nothing make no"
                " node come; write what one Pod of the rush asks for, like nvidia.com/gpu=8"
            )
        return self
