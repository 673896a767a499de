"""The runtime of Temporal's SDK: its log lines go through ours, and its metrics to a port if the settings name one.

No port by default: some hundred series for each type of activity, of which a fleet of agents makes millions, and a port
that two processes on one host network would both want. The operator's are worth a port: they show the backlog.
"""

from __future__ import annotations

import logging

from temporalio import workflow
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from kube_cache.errors import InvalidRequest


def new_runtime(address: str) -> Runtime:
    """Return the SDK's runtime. address: `host:port` of its metrics; empty = none. Raises InvalidRequest."""
    # The lines' fields tell the same, once.
    workflow.logger.workflow_info_on_message = False
    try:
        return Runtime(telemetry=telemetry(address))
    except ValueError as error:
        raise InvalidRequest(
            f"cannot serve the metrics of Temporal's SDK on {address!r}: {error}; "
            "set KUBE_CACHE_TELEMETRY__TEMPORAL_METRICS_ADDRESS to a free host:port (an IP address), or to nothing"
        ) from error


def telemetry(address: str) -> TelemetryConfig:
    """Configure where the SDK's core logs and counts. address: as of `new_runtime`."""
    # The core would write lines of another form to standard error, and past the redaction.
    forwarding = LogForwardingConfig(
        logging.getLogger("temporalio"),
        append_target_to_name=False,
        prepend_target_on_message=False,
        append_log_fields_to_message=False,
    )
    lines = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    if not address:
        return TelemetryConfig(logging=lines)
    metrics = PrometheusConfig(
        bind_address=address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
    )
    return TelemetryConfig(logging=lines, metrics=metrics)
