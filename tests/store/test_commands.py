"""An answer from afar fits what Temporal takes, and says how much of it does not."""

from __future__ import annotations

import json

import pytest

from kube_cache.contracts.node import StoreResponse
from kube_cache.store.commands import MAX_BYTES, truncate

ROW = {"digest": "d" * 64, "uri": "s3://models/some/prefix", "pinned_by": ["pod/" + "u" * 36]}


@pytest.mark.parametrize(
    ("verb", "wrap", "unwrap"),
    [
        ("ls", lambda rows: rows, lambda data: data),
        ("du", lambda rows: {"used": 1, "snapshots": rows}, lambda data: data["snapshots"]),
        ("scrub", lambda rows: {"objects": 1, "bad": rows}, lambda data: data["bad"]),
        ("verify", lambda rows: [{"digest": "d", "problems": rows}], lambda data: data[0]["problems"]),
    ],
)
def test_rows_that_do_not_fit_are_cut_and_counted(verb: str, wrap: object, unwrap: object) -> None:
    rows = [{**ROW, "number": number} for number in range(20_000)]
    whole = StoreResponse(0, json.dumps(wrap(rows)))
    assert len(whole.data) > 2 * MAX_BYTES
    cut = truncate(verb, whole)
    assert MAX_BYTES / 2 < len(cut.data) <= MAX_BYTES
    left = unwrap(json.loads(cut.data))
    assert left == rows[: len(left)]
    assert cut.truncated_rows == len(rows) - len(left)


def test_what_fits_is_left_alone() -> None:
    response = StoreResponse(0, json.dumps([ROW]))
    assert truncate("ls", response) is response
