"""What is going on, for people who ask: one Pod's wait, all warms, what the nodes hold, what was saved.

Reads Kubernetes and Temporal with the rights of the person who asks and changes nothing. No workflow but a prefetch is
queried: a query that meets a local activity spoils its history (docs/design/local-activities.md). Either source may be
away; the answer then says so, and what the other one tells.
"""
