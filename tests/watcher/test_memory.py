"""What an operator keeps of a large cluster's Pods fits beside everything else that it does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MAX_RSS_MIB = 300
"""Asked of the watches for 20,000 Pods; an operator's workflows come on top."""


@pytest.mark.slow
def test_twenty_thousand_pods_of_which_two_thousand_are_gated_take_little_memory() -> None:
    command = [sys.executable, "-m", "tests.bench.watch_memory", "--pods", "20000", "--gated", "2000"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    found = json.loads(ran.stdout.splitlines()[-1])
    print(found)
    assert found["KiB_per_pod"] >= 8
    assert found["readable"]
    assert found["rss_mib"] <= MAX_RSS_MIB
    # 2 KiB of packed JSON for each gated Pod, some facts for each, and what the parser leaves behind.
    assert found["rss_mib"] - found["rss_before_mib"] <= 50
