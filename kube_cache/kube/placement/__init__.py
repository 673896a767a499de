"""Hard constraints among Pods, computed for seats as kube-scheduler computes them for the Pods themselves.

A seat lives in a namespace of our own, where the scheduler cannot see the peers of its Pod. `constraints` reads what a
Pod demands, `peers` lists whom that concerns, `spread` and `inter_pod` are the scheduler's two filters, `evaluation`
joins them, and `placement` asks at the three moments that matter: before a seat is created, after it was bound, and
before its Pod is released.
"""
