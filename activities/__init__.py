"""Activities: what the workflows have done for them, on the operator's queue (`cluster`) or on a node's (`node`).

Each is thin over `kube_cache`: unpack, call, report, translate errors. Each is idempotent; its docstring says what
happens if it runs twice. Activities decide nothing, and know no workflow.
"""
