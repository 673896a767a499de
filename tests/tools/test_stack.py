"""The stack's parts that need no server: supervisor, ports, certificates, folders, files."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache import names
from tools.stack import Stack, StackError, env_file, environment, pods, ports, waiting
from tools.stack.pki import Authority
from tools.stack.processes import Processes
from tools.stack.product import Part
from tools.stack.state import State

CHECKOUT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "logs")
    yield made
    made.close()


# Processes


def test_output_goes_to_the_log(processes: Processes) -> None:
    process = processes.spawn("hello", ["/bin/sh", "-c", "echo out; echo err >&2"])
    assert process.wait(10)
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
    again = process.respawn()
    assert again.running
    assert again.pid != process.pid
    assert [each.pid for each in processes.running] == [again.pid]


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
    waiting.until(lambda: alive(grandchild), lambda living: not living, "grandchild gone", 5)


OWNER = """
import sys, threading
from pathlib import Path
from tools.stack.processes import Processes
processes = Processes(Path(sys.argv[1]))
# From a thread that ends at once: PDEATHSIG set by a child of this thread would fire now.
made = []
starter = threading.Thread(target=lambda: made.append(processes.spawn("child", ["/bin/sleep", "1000"])))
starter.start()
starter.join()
print(made[0].pid, processes.supervisor.pid, flush=True)
threading.Event().wait()
"""


FORKING = """
import os, time
if os.fork() == 0:
    time.sleep(1000)
"""


@pytest.mark.parametrize("more", ["", FORKING], ids=["alone", "its-fork-lives-on"])
def test_children_die_with_an_owner_that_is_killed_and_not_before(tmp_path: Path, more: str) -> None:
    program = OWNER.replace("threading.Event().wait()", f"{more}\nthreading.Event().wait()")
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
        waiting.until(lambda: [p for p in (child, supervisor) if alive(p)], lambda left: not left, "all gone", 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)  # the fork, which is the test's own


def test_children_die_with_a_supervisor_that_is_killed(processes: Processes) -> None:
    process = processes.spawn("child", ["/bin/sleep", "1000"])
    processes.supervisor.kill()
    waiting.until(lambda: alive(process.pid), lambda living: not living, "child gone", 5)
    assert process.wait(5)
    with pytest.raises(StackError, match="supervisor has ended"):
        processes.spawn("another", ["/bin/sleep", "1000"])


def test_many_starts_at_once_each_get_their_own(processes: Processes) -> None:
    made = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(processes.spawn(f"p{n}", ["/bin/sh", "-c", f"exit {n}"])))
        for n in range(20)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(process.wait(10) for process in made)
    assert {process.name: process.code for process in made} == {f"p{n}": n for n in range(20)}


def test_a_part_is_ready_when_its_log_says_so(processes: Processes, tmp_path: Path) -> None:
    """`cli.main` of another folder stands in for the product."""
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
    mended = part.pid
    part.pause()
    part.repair()
    assert part.pid == mended
    assert "T" not in Path(f"/proc/{mended}/stat").read_text().rpartition(")")[2].split()[0]


# Ports


def test_ports_are_distinct_and_free() -> None:
    picked = ports.free(50)
    assert len(set(picked)) == 50
    for port in picked:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_was_taken_meanwhile_costs_one_more_attempt() -> None:
    tried: list[int] = []

    def start(picked: list[int]) -> str:
        tried.extend(picked)
        if len(tried) == 1:
            raise StackError("server: listen tcp 127.0.0.1:1: bind: address already in use")
        return "up"

    assert ports.binding(1, start) == "up"
    assert len(set(tried)) == 2


def test_another_error_is_not_tried_again() -> None:
    tried: list[int] = []

    def start(picked: list[int]) -> None:
        tried.extend(picked)
        raise StackError("no license")

    with pytest.raises(StackError, match="no license"):
        ports.binding(1, start)
    assert len(tried) == 1


# Certificates


def test_certificates_satisfy_strict_verification(tmp_path: Path) -> None:
    """A TLS handshake with both sides verifying, by an OpenSSL that was told to be strict."""
    authority = Authority(tmp_path / "pki")
    server, client = authority.server("server"), authority.client("alice", "system:masters")
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.load_cert_chain(server.certificate, server.key)
    accepting.load_verify_locations(authority.certificate)
    connecting = ssl.create_default_context(cafile=str(authority.certificate))
    connecting.verify_flags |= ssl.VERIFY_X509_STRICT
    connecting.load_cert_chain(client.certificate, client.key)
    subjects: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            raw, _ = listener.accept()
            with accepting.wrap_socket(raw, server_side=True) as stream:
                stream.recv(1)
                subjects.append(stream.getpeercert())

        accepts = threading.Thread(target=accept)
        accepts.start()
        with socket.create_connection(listener.getsockname()) as raw:
            with connecting.wrap_socket(raw, server_hostname="127.0.0.1") as stream:
                stream.send(b"x")
                accepts.join(10)
    assert (("commonName", "alice"),) in subjects[0]["subject"]  # type: ignore[index]
    assert (("organizationName", "system:masters"),) in subjects[0]["subject"]  # type: ignore[index]


def test_private_files_are_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    config = authority.kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", "alice")
    for path in (config, authority.client("bob").key, authority.signing_key("sa").key):
        assert path.stat().st_mode & 0o077 == 0, path


# Folders and files


def test_a_temporary_folder_goes_and_a_named_one_stays(tmp_path: Path) -> None:
    temporary, named = State(), State(tmp_path / "mine")
    for state in (temporary, named):
        (state.path / "file").touch()
        state.close()
    assert not temporary.path.exists()
    assert (tmp_path / "mine" / "file").exists()


def test_a_named_folder_starts_empty(tmp_path: Path) -> None:
    first = State(tmp_path)
    (first.path / "nodes" / "gpu-1").mkdir(parents=True)
    (first.path / "kubeconfig").touch()
    first.close()
    second = State(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stack.lock"]
    second.close()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    holder = State(tmp_path)
    with pytest.raises(StackError, match="another stack is running in"):
        State(tmp_path)
    holder.close()
    State(tmp_path).close()


def test_what_a_killed_run_left_is_swept_up_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "kube-cache-stack-left"
    left.mkdir()
    (left / "stack.lock").touch()
    in_use = State()
    assert not left.exists()
    another = State()
    assert in_use.path.exists()
    for state in (in_use, another):
        state.close()


def test_the_env_file_survives_a_shell(tmp_path: Path) -> None:
    values = {"PLAIN": "http://127.0.0.1:1", "AWKWARD": 'it\'s $HOME; a `path` with "all"'}
    path = env_file.under(tmp_path)
    env_file.write(path, values)
    printed = subprocess.check_output(
        ["/bin/sh", "-c", f'set -a; . {shlex.quote(str(path))}; printf "%s\\n%s" "$PLAIN" "$AWKWARD"'], text=True
    )
    assert printed.split("\n") == list(values.values())
    assert path.stat().st_mode & 0o077 == 0


def test_the_developers_own_settings_do_not_leak_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "KUBECONFIG", "TEMPORAL_API_KEY", "HTTPS_PROXY", "KUBE_CACHE_STORE__ROOT"):
        monkeypatch.setenv(name, "mine")
    given = environment.clean(tmp_path, EXTRA="1")
    assert "mine" not in given.values()
    assert given["HOME"] == str(tmp_path)
    assert given["EXTRA"] == "1"


def test_a_stack_says_which_server_it_lacks() -> None:
    with pytest.raises(StackError, match="this stack has no temporal"):
        _ = Stack(with_product=False).temporal
    with pytest.raises(StackError, match="the product needs kubernetes, temporal, s3"):
        Stack(servers=["s3"])


# Waiting and Pods


def test_waiting_shows_what_was_there_instead() -> None:
    with pytest.raises(waiting.WaitTimeout, match=r"(?s)not within 0.01 s: phase Running; last seen:.*Pending"):
        waiting.until(lambda: {"phase": "Pending"}, lambda pod: pod["phase"] == "Running", "phase Running", 0.01)


def test_a_gated_pod_has_what_the_product_looks_for() -> None:
    pod = pods.gated("a", "s3://models/weights", gpus=2, gates=[names.GATE, "example.com/queue"])
    assert pod["metadata"]["annotations"] == {"x-openai/required-dataset": "s3://models/weights"}
    assert pods.gates(pod) == ["kube-cache.openai.com/gate", "example.com/queue"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pods.node(pod) == ""
    assert pods.condition(pod) == {}


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    """It is started without site-packages, so that it starts at once and cannot break with the environment."""
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
        assert running.wait(10) == 0
