"""Activities on the operator's queue: Kubernetes, Temporal, LIST and HEAD of the origin.

They never touch a disk (import-linter checks).
"""
