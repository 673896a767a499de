"""Kubernetes events into workflow starts and signals, idempotently. It decides nothing."""
