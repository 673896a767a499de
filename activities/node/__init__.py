"""Activities on a node's queue: the disk and the origin. They never talk to Kubernetes (import-linter checks)."""
