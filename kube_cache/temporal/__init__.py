"""Temporal from outside a workflow: the client, the search attributes, running executions."""
