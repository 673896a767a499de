"""Activities on the operator's queue: Kubernetes, Temporal, LIST and HEAD. They never touch a disk (checked by import-linter)."""
