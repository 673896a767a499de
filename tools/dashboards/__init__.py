"""Grafana's dashboards as code, and the manifest that brings them with Prometheus, Grafana and Tempo.

`python -m tools.dashboards` writes `deploy/monitoring/dashboards/*.json` and `deploy/monitoring/monitoring.yaml`.
"""
