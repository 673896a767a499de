"""A real Kubernetes node on this machine: containerd and kubelet in namespaces of their own, joined to the dev stack.

Start with `node.py`. Needs root, and the Debian packages that `machine.missing` names.
"""
