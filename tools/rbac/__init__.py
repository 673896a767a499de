"""What the operator may do in Kubernetes: each right with its user and with the test that fails without it.

`table` holds the rights with their reasons, `page` writes docs/operate/permissions.md from it, and `python -m
tools.rbac` takes each right away in turn, on a real API server, and has its test fail (`tests/plugins/rights.py`).
"""
