"""Telemetry of a process: logs. Metrics and traces get their modules beside it."""
