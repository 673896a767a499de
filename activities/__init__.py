"""One module per activity, each thin over `kube_cache`: unpack, call, report, translate errors.

Every activity is idempotent; its docstring says what happens if it runs twice.
"""
