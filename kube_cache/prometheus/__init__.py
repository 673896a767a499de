"""Asks a Prometheus, or what speaks its HTTP API, for demand over weeks. Reads only."""
