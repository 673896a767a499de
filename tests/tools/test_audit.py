"""Releases in the audit log, also of a client that was killed before the answer, where the log alone is not enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kube_cache import names
from tools.stack.audit import Audit

_GATE_OFF = {"spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], []),
        ([409], []),
        ([409, 200], [200]),
        ([504], [504]),
        ([504, 504, 422], [504]),
        ([504, 200], [200]),
        ([200, 504, 200], [200, 200]),
    ],
)
def test_a_release_is_what_succeeded_or_else_what_was_abandoned(
    tmp_path: Path, answers: list[int], expected: list[int]
) -> None:
    audit = Audit(tmp_path)
    events = [
        {
            "user": {"username": "operator"},
            "verb": "patch",
            "objectRef": {"namespace": "ml", "name": "one"},
            "responseStatus": {"code": code},
            "requestObject": _GATE_OFF,
        }
        for code in answers
    ]
    lines = [json.dumps(event, separators=(",", ":")) + "\n" for event in events]
    (tmp_path / "audit.log").write_text("".join(lines))
    assert [write.status for write in audit.releases("ml", "one")] == expected
