"""`kube-cache prefetch`: what the arguments say, when a wait is over and with which code, what is printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from cli import prefetch_run, prefetch_schedule
from cli.app import run
from kube_cache.contracts.common import ErrorInfo
from kube_cache.contracts.node import ExitCode
from kube_cache.contracts.prefetch import NodeFailure, PrefetchPhase, PrefetchSchedule, PrefetchSpec, PrefetchStatus
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

    schedules: tuple[str, ...] = ("kube-cache-reconcile",)

    async def list_schedules(self, **_: Any) -> AsyncIterator[Any]:
        async def memo_value(_key: str, default: str) -> str:
            return default

        async def entries() -> AsyncIterator[Any]:
            for schedule in self.schedules:
                yield SimpleNamespace(id=schedule, memo_value=memo_value)

        return entries()

    def get_schedule_handle(self, schedule: str) -> Any:
        def done(verb: str) -> Any:
            async def run(**_: Any) -> Any:
                if schedule not in self.schedules:
                    raise missing()
                self.signals.append(f"schedule: {verb}")
                state, moments = SimpleNamespace(note="", paused=False), [datetime(2026, 11, 30, 7, 15, tzinfo=UTC)]
                info = SimpleNamespace(next_action_times=moments, recent_actions=[])
                return SimpleNamespace(schedule=SimpleNamespace(state=state), info=info)

            return run

        return SimpleNamespace(**{verb: done(verb) for verb in ("describe", "delete", "pause", "unpause")})


def missing() -> RPCError:
    error = RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
    error._grpc_status = SimpleNamespace(details=[])  # type: ignore[assignment]
    return error


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
    gone = sources(missing())
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


def test_one_between_two_windows_is_listed_shown_and_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """None of it lives, or it has come to its end."""
    for answer in (missing(), status(PrefetchPhase.EXPIRED)):
        given = sources(answer)
        given.temporal.schedules = ("prefetch/ml/morning", "kube-cache-reconcile")
        assert asyncio.run(prefetch_run.list_at(given, "ml", 100, as_json=True)) == ExitCode.DONE
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["prefetches"]}
        assert (rows["morning"]["phase"], rows["morning"]["expires_at"]) == ("Scheduled", 0)
        assert asyncio.run(prefetch_run.show_at(given, "ml/morning", as_json=False)) == ExitCode.DONE
        printed = capsys.readouterr().out
        assert "Scheduled, 0 %: the next one begins at 2026-11-30T07:15:00Z" in printed
        assert "expires" not in printed
        for verb in ("pause", "resume", "cancel"):
            assert asyncio.run(prefetch_run.signal_at(given, verb, "ml/morning", as_json=False)) == ExitCode.DONE
        capsys.readouterr()
        asked = [each for each in given.temporal.signals if each != "schedule: describe"]
        assert asked == ["schedule: pause", "pause", "schedule: unpause", "resume", "schedule: delete", "cancel"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"cron": ""}, "--window goes with --schedule", id="a window alone"),
        pytest.param({"cron": "8:15"}, "write five fields", id="no cron expression"),
        pytest.param({"window": ""}, "--schedule needs --window", id="no window"),
        pytest.param({"window": "0h"}, "--schedule needs --window", id="no time"),
        pytest.param({"window": "long"}, "--window: 'long'", id="no duration"),
        pytest.param({"wait": True}, "leave it out with --schedule", id="to be waited for"),
    ],
)
def test_wrong_arguments_of_a_schedule_are_named(changes: dict[str, Any], words: str) -> None:
    given = {"time_zone": "UTC", "window": "10h", "wait": False, "cron": "15 8 * * 1-5", **changes}
    with pytest.raises(InvalidRequest, match=words):
        prefetch_schedule.specify(given.pop("cron"), **given)


def test_a_start_with_a_schedule_makes_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(prefetch_schedule, "start", lambda spec, when, **_: seen.append((spec, when)) or 0)
    words = ["--schedule", "15 8 * * 1-5", "--time-zone", "Europe/Berlin", "--window", "9h45m"]
    assert run(["prefetch", "s3://models/gpt", *words]) == 0
    ((spec, when),) = seen
    assert spec.datasets == ["s3://models/gpt"]
    assert when == PrefetchSchedule("15 8 * * 1-5", 35100, "Europe/Berlin")


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
