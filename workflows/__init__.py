"""The durable workflows: `WarmPod`, `DatasetOnNode`, `Reconcile`, `StoreCommand`.

They decide and do nothing else: no I/O, clock, randomness or environment.
"""
