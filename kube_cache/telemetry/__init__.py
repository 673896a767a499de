"""Telemetry of a process: logs, metrics, and the endpoint of the probes. Traces get their module beside them."""
