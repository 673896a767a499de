"""`kube-cache prefetch`: what the arguments say, when a wait is over and with which code, what is printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from cli import prefetch_run
from cli.app import run
from kube_cache.contracts.common import ErrorInfo
from kube_cache.contracts.node import ExitCode
from kube_cache.contracts.prefetch import NodeFailure, PrefetchPhase, PrefetchSpec, PrefetchStatus
from kube_cache.errors import InvalidRequest


def specify(*uris: str, **changes: Any) -> PrefetchSpec:
    given = {"name": "", "namespace": "ml", "nodes": "", "selector": "", "expires": "12h", **changes}
    return prefetch_run.specify(uris or ("s3://models/gpt",), **given)


def status(phase: str, message: str = "", **fields: Any) -> PrefetchStatus:
    return PrefetchStatus("ml", "nightly", phase, message, ["s3://models/gpt"], **fields)


def test_the_arguments_become_the_specification() -> None:
    spec = specify("s3://models/gpt", "s3://models/b", nodes="b, a,b", selector="pool=gpu, zone=a", copies=3)
    assert (spec.datasets, spec.nodes, spec.selector) == (
        ["s3://models/gpt", "s3://models/b"],
        ["a", "b"],
        "pool=gpu,zone=a",
    )
    assert (spec.copies, spec.expires_s, spec.namespace) == (3, 43200, "ml")


def test_a_name_follows_from_the_data_and_the_nodes_alone() -> None:
    name = specify().name
    assert name.startswith("models-gpt-")
    assert specify(expires="1h", max_bytes=5).name == name
    others = {
        specify("s3://models/b").name,
        specify(copies=2).name,
        specify(nodes="a").name,
        specify(selector="a=b").name,
    }
    assert len({name, *others}) == 5
    assert specify(name="nightly").name == "nightly"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"expires": "soon"}, "--expires", id="no duration"),
        pytest.param({"expires": "0s"}, "must live for some time", id="no time"),
        pytest.param({"selector": "gpu"}, "'gpu' is no label", id="no label"),
        pytest.param({"name": "a/b"}, "--name", id="a name with a slash"),
        pytest.param({"namespace": "A"}, "--namespace", id="no namespace"),
        pytest.param({"nodes": ",".join(map(str, range(501)))}, "use --selector", id="too many nodes"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        specify(**changes)


@pytest.mark.parametrize("text", ["", "a/b/c", "A", "ml/"])
def test_what_names_no_prefetch_is_wrong_usage(text: str) -> None:
    with pytest.raises(InvalidRequest, match="NAMESPACE/NAME"):
        prefetch_run.parse_name(text)


def test_a_uri_without_a_verb_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PrefetchSpec] = []
    monkeypatch.setattr(prefetch_run, "start", lambda spec, **_: seen.append(spec) or 0)
    words = ["--copies", "3", "s3://models/gpt", "--max-bytes", "1.5GiB", "--bandwidth", "2", "-l", "pool=gpu"]
    assert run(["prefetch", *words]) == run(["prefetch", "start", *words]) == 0
    assert seen[0] == seen[1]
    assert (seen[0].copies, seen[0].max_bytes, seen[0].max_bytes_per_s) == (3, 3 << 29, 2 << 20)


def failing(kind: str) -> dict[str, NodeFailure]:
    return {"gpu-1": NodeFailure(ErrorInfo(kind, "why"), 1, 0)}


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        pytest.param(status(PrefetchPhase.WARMING), None, id="warming"),
        pytest.param(status(PrefetchPhase.READY), ExitCode.DONE, id="ready"),
        pytest.param(status(PrefetchPhase.WAITING), None, id="nodes may come"),
        pytest.param(status(PrefetchPhase.WAITING, failures=failing("AgentLost")), None, id="an agent may come back"),
        pytest.param(
            status(PrefetchPhase.WAITING, failures=failing("InsufficientDisk")), ExitCode.NO_ROOM, id="no room"
        ),
        pytest.param(
            status(PrefetchPhase.WARMING, failures=failing("InsufficientDisk")), None, id="others still fetch"
        ),
        pytest.param(status(PrefetchPhase.CANCELLED), ExitCode.FAILED, id="cancelled"),
        pytest.param(
            status(PrefetchPhase.AWAITING_OPERATOR, "DatasetNotAllowed: no"), ExitCode.REFUSED, id="not allowed"
        ),
        pytest.param(status(PrefetchPhase.AWAITING_OPERATOR, "DatasetNotFound: no"), ExitCode.ABSENT, id="not there"),
    ],
)
def test_when_a_wait_is_over(seen: PrefetchStatus, code: ExitCode | None) -> None:
    assert prefetch_run._code_of(seen) == code


class Temporal:
    """Answers with these in turn; the last one from then on."""

    def __init__(self, *answers: PrefetchStatus | Exception) -> None:
        self.answers = list(answers)
        self.signals: list[str] = []

    async def start_workflow(self, *_: Any, **__: Any) -> None:
        return None

    def get_workflow_handle(self, _id: str, **_: Any) -> Any:
        async def describe(**_: Any) -> Any:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                raise answer
            self.now = answer
            from temporalio.client import WorkflowExecutionStatus

            return SimpleNamespace(status=WorkflowExecutionStatus.RUNNING)

        async def query(*_: Any, **__: Any) -> PrefetchStatus:
            return self.now

        async def signal(name: str) -> None:
            self.signals.append(name)
            if isinstance(self.answers[0], Exception):
                raise self.answers[0]

        return SimpleNamespace(describe=describe, query=query, signal=signal)

    async def list_workflows(self, _query: str) -> AsyncIterator[Any]:
        for workflow_id in ("prefetch/ml/nightly", "prefetch/web/other", "by-hand"):
            yield SimpleNamespace(id=workflow_id, typed_search_attributes={})


def sources(*answers: PrefetchStatus | Exception) -> Any:
    return SimpleNamespace(temporal=Temporal(*answers), temporal_error="", kubernetes_error="")


def test_a_wait_ends_when_the_data_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefetch_run, "_LOOK_S", 0)
    ready = status(PrefetchPhase.READY, "3 of 3", wanted=3, ready=3)
    given = sources(status(PrefetchPhase.WARMING, "1 of 3"), RPCError("busy", RPCStatusCode.UNAVAILABLE, b""), ready)
    code = asyncio.run(prefetch_run.start_at(given, specify(), wait=True, timeout_s=None, as_json=True))
    assert code == ExitCode.DONE
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["phase"], document["percent"], document["ready"]) == ("Ready", 100, 3)
    assert "1 of 3" in printed.err


def test_a_wait_tells_when_nobody_answers_and_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefetch_run, "_LOOK_S", 0)
    away = sources(RPCError("timeout", RPCStatusCode.DEADLINE_EXCEEDED, b""))
    code = asyncio.run(prefetch_run.start_at(away, specify(), wait=True, timeout_s=None, as_json=False))
    assert code == ExitCode.UNREACHABLE
    slow = sources(status(PrefetchPhase.WARMING))
    code = asyncio.run(prefetch_run.start_at(slow, specify(), wait=True, timeout_s=0, as_json=False))
    assert code == ExitCode.FAILED
    assert "time is up; the prefetch goes on" in capsys.readouterr().err


def test_a_prefetch_that_does_not_live_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    gone = sources(RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b""))
    gone.temporal.answers[0]._grpc_status = SimpleNamespace(details=[])
    assert asyncio.run(prefetch_run.signal_at(gone, "cancel", "ml/x", as_json=False)) == ExitCode.ABSENT
    assert asyncio.run(prefetch_run.show_at(gone, "ml/x", as_json=False)) == ExitCode.ABSENT
    assert "kube-cache prefetch list" in capsys.readouterr().err


def test_the_list_tells_of_each_that_lives(capsys: pytest.CaptureFixture[str]) -> None:
    given = sources(status(PrefetchPhase.WARMING, wanted=2, ready=1, ready_bytes=10, partial_bytes=5, total_bytes=20))
    assert asyncio.run(prefetch_run.list_at(given, "ml", 100, as_json=True)) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["shown"], document["total"]) == (1, 1)
    assert document["prefetches"][0]["percent"] == 75
    assert asyncio.run(prefetch_run.list_at(given, "", 1, as_json=False)) == ExitCode.DONE
    printed = capsys.readouterr()
    assert "75 %" in printed.out
    assert "1 more rows are not shown" in printed.err


def test_one_is_printed_with_what_holds_it_up(capsys: pytest.CaptureFixture[str]) -> None:
    given = sources(
        status(
            PrefetchPhase.WARMING,
            "1 of 3",
            failures=failing("AgentLost"),
            busy=[f"n{k}" for k in range(7)],
            yielding=["n3"],
        )
    )
    assert asyncio.run(prefetch_run.show_at(given, "ml/nightly", as_json=False)) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "gpu-1: AgentLost: why" in printed
    assert "and 2 more" in printed
    assert "yield    n3; they stand back" in printed
