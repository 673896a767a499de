"""Processes of a stack: none outlives its owner or the supervisor, and the end of a log explains a failed start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.os_processes import alive, survivors
from tools.stack import StackError, environment, waiting
from tools.stack.processes import Processes
from tools.stack.product import Part

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path / "logs")
    yield processes
    processes.close()


def test_output_goes_to_the_log(processes: Processes) -> None:
    process = processes.spawn("hello", ["/bin/sh", "-c", "echo out; echo err >&2"])
    assert process.wait(60)
    assert process.code == 0
    assert sorted(process.output().split()) == ["err", "out"]


def test_a_program_that_does_not_exist_is_named(processes: Processes) -> None:
    with pytest.raises(StackError, match="thing cannot start: /no/such/program"):
        processes.spawn("thing", ["/no/such/program"])


def test_a_process_that_ends_before_it_is_ready_shows_its_log(processes: Processes) -> None:
    process = processes.spawn("server", ["/bin/sh", "-c", "echo no license; exit 3"])
    with pytest.raises(StackError, match=r"(?s)server ended with 3 before ready;.*no license"):
        process.wait_until(lambda: False, "ready", 10)


def test_a_process_that_is_never_ready_is_given_up(processes: Processes) -> None:
    process = processes.spawn("server", ["/bin/sh", "-c", "echo thinking; sleep 100"])
    waiting.true(process.output, "output")
    with pytest.raises(StackError, match=r"(?s)server: no ready within 0 s;.*thinking"):
        process.wait_until(lambda: False, "ready", 0.05)


def test_a_start_sees_only_its_own_output(processes: Processes) -> None:
    first = processes.spawn("server", ["/bin/sh", "-c", "echo ready; sleep 100"])
    waiting.true(first.output, "output")
    first.kill()
    second = processes.spawn("server", ["/bin/sh", "-c", "sleep 100"])
    assert second.output() == ""
    assert second.log == first.log


def test_a_stubborn_process_is_killed_after_the_grace(processes: Processes) -> None:
    process = processes.spawn("stubborn", ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"])
    waiting.true(process.output, "output")
    process.stop(0.2)
    assert process.code == -signal.SIGKILL


def test_a_process_starts_again_only_after_it_has_ended(processes: Processes) -> None:
    process = processes.spawn("server", ["/bin/sleep", "100"])
    with pytest.raises(StackError, match="still runs"):
        process.respawn()
    process.kill()
    second = process.respawn()
    assert second.running
    assert second.pid != process.pid
    assert [running.pid for running in processes.running] == [second.pid]


def test_signals_for_the_dead_go_nowhere(processes: Processes) -> None:
    process = processes.spawn("server", ["/bin/sleep", "100"])
    process.kill()
    process.signal(signal.SIGTERM)
    assert processes.spawn("other", ["/bin/sleep", "100"]).running


def test_closing_ends_grandchildren_that_left_their_parent(processes: Processes) -> None:
    # setsid: a session of its own, so no signal to the parent's group reaches it.
    process = processes.spawn("parent", ["/bin/sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait"])
    waiting.true(process.output, "the grandchild's id")
    grandchild = int(process.output())
    process.kill()
    assert alive(grandchild)
    processes.close()
    waiting.until(lambda: alive(grandchild), lambda living: not living, "grandchild gone")


OWNER = """
import sys, threading
from pathlib import Path
from tools.stack.processes import Processes
processes = Processes(Path(sys.argv[1]))
# From a thread that ends at once: PDEATHSIG set by a child of this thread would fire now.
children = []
starter = threading.Thread(target=lambda: children.append(processes.spawn("child", ["/bin/sleep", "1000"])))
starter.start()
starter.join()
print(children[0].pid, processes.supervisor.pid, flush=True)
threading.Event().wait()
"""


FORKING = """
import os, time
if os.fork() == 0:
    time.sleep(1000)
"""


@pytest.mark.parametrize("code", ["", FORKING], ids=["alone", "its-fork-lives-on"])
def test_children_die_with_an_owner_that_is_killed_and_not_before(tmp_path: Path, code: str) -> None:
    program = OWNER.replace("threading.Event().wait()", f"{code}\nthreading.Event().wait()")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        child, supervisor = map(int, owner.stdout.readline().split())
        assert alive(child)
        owner.kill()
        owner.wait()
        waiting.until(lambda: survivors((child, supervisor)), lambda left: not left, "all gone")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)  # the fork, which is the test's own


def test_children_die_with_a_supervisor_that_is_killed(processes: Processes) -> None:
    process = processes.spawn("child", ["/bin/sleep", "1000"])
    processes.supervisor.kill()
    waiting.until(lambda: alive(process.pid), lambda living: not living, "child gone")
    assert process.wait(60)
    with pytest.raises(StackError, match="supervisor has ended"):
        processes.spawn("another", ["/bin/sleep", "1000"])


def test_many_starts_at_once_each_get_their_own(processes: Processes) -> None:
    started = []
    threads = [
        threading.Thread(target=lambda n=n: started.append(processes.spawn(f"p{n}", ["/bin/sh", "-c", f"exit {n}"])))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(process.wait(60) for process in started)
    assert {process.name: process.code for process in started} == {f"p{n}": n for n in range(20)}


def test_a_part_is_ready_when_its_log_says_so(processes: Processes, tmp_path: Path) -> None:
    """The product's stand-in is a `cli.main` in another folder."""
    package = tmp_path / "cli"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(
        "import json, sys, time\n"
        "print('not json, agent ready')\n"
        "print(json.dumps({'event': 'starting', 'about': 'agent ready'}))\n"
        "print(json.dumps({'event': sys.argv[1] + ' ready'}), flush=True)\n"
        "time.sleep(1000)\n"
    )
    part = Part(processes, "agent-gpu-1", "agent", environment.clean(tmp_path), tmp_path)
    part.start()
    first = part.pid
    with pytest.raises(StackError, match="already runs"):
        part.start()
    part.restart(env={"MORE": "1"})
    assert part.pid != first
    assert part.environment["MORE"] == "1"
    part.stop(grace_s=5)
    assert not part.running
    part.repair()
    assert part.running
    assert "MORE" not in part.environment
    repaired = part.pid
    part.pause()
    part.repair()
    assert part.pid == repaired
    assert "T" not in Path(f"/proc/{repaired}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    """The supervisor is started without site-packages, so that it starts fast and cannot break with the environment."""
    source = CHECKOUT / "tools" / "stack" / "supervisor.py"
    left, right = socket.socketpair()
    with (
        left,
        right,
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(source), str(right.fileno())],
            pass_fds=[right.fileno()],
            env=dict(os.environ),
        ) as running,
    ):
        right.close()
        left.close()
        assert running.wait(60) == 0
