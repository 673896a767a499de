"""`kube-cache why`: one paragraph about one Pod."""

from __future__ import annotations

import time

from cli.cluster import ask, parse_pod, print_json
from kube_cache.contracts.node import ExitCode
from kube_cache.insight.gather import facts_of
from kube_cache.insight.why import Answer, Stage, explain


def run(pod: str, *, as_json: bool) -> int:
    """Print why the Pod waits. Return the exit code."""
    namespace, name = parse_pod(pod)
    facts = ask(lambda sources: facts_of(sources, namespace, name))
    now = time.time()
    answer = explain(facts, now=now)
    if as_json:
        print_json(document(answer, now))
    else:
        print(answer.paragraph(now))
    if answer.stage == Stage.ABSENT:
        return ExitCode.ABSENT
    return ExitCode.UNREACHABLE if answer.stage == Stage.UNKNOWN else ExitCode.DONE


def document(answer: Answer, now: float) -> dict[str, object]:
    """Compose what `--json` prints; docs/operate/cli.md explains the keys."""
    return {
        "pod": answer.name,
        "stage": str(answer.stage),
        "phase": answer.phase,
        "waits_for": answer.waits_for,
        "bottleneck": str(answer.bottleneck),
        "because": answer.finding.why,
        "since": answer.since or None,
        "remedy": answer.finding.remedy,
        "notes": list(answer.notes),
        "text": answer.paragraph(now),
    }
