"""A soak fails on a line that tells of a mistake, and on no line that tells of a server that is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.soak.logs import mistakes


@pytest.mark.parametrize(
    "event",
    ["Exception handling failed, original error: …", "Task exception was never retrieved\nfuture: …"],
)
def test_a_mistake_is_told_with_its_words(tmp_path: Path, event: str) -> None:
    log = tmp_path / "operator.log"
    log.write_text(2 * (json.dumps({"event": event, "level": "error"}) + "\n"))
    (told,) = mistakes([log])
    assert "2 times" in told
    assert event[:20] in told


def test_a_history_that_the_code_does_not_follow_is_told(tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    log.write_text("WARN temporalio_sdk_core: Failing workflow task [TMPRL1100] Nondeterminism error\n")
    assert mistakes([log])


def test_a_server_that_is_away_is_no_mistake(tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    lines = [json.dumps({"event": "watch failed; trying again", "level": "warning"}), '{"event": "Task exce', ""]
    log.write_text("\n".join(lines))
    assert not mistakes([log])
