"""Kube-Cache's shared leaf: everything that the watcher, the workflows and the activities have in common.

It imports none of the three. Nothing is re-exported here: import the module that owns the name.
"""
