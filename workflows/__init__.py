"""The two durable workflows. They decide and do nothing else: no I/O, clock, randomness or environment."""
