"""Object storage to the node's disk: datasets and listings, the transfer engine, the node's store.

Nothing here knows Kubernetes or Temporal; `activities/` is the thin layer above.
"""
