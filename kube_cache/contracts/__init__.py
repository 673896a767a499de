"""What crosses Temporal: one dataclass in and one out for each workflow, activity, signal and query.

Old histories are replayed with new code, so fields are only ever added, each with a default. Payloads stay far under
Temporal's 2 MiB: a snapshot's manifest never travels, only its digest, count and bytes.

No `from __future__ import annotations` here: the payload converter evaluates the hints at each decoding, and evaluating
strings was a twelfth of the operator's time.
"""
