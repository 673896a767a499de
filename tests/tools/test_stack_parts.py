"""The parts of a stack that need no server: ports, certificates, folders, files, waiting, Pods."""

from __future__ import annotations

import shlex
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from kube_cache import names
from tools.stack import Stack, StackError, env_file, environment, nodes, pods, ports, waiting
from tools.stack.pki import Authority
from tools.stack.state import State

# Ports


def test_ports_are_distinct_and_free() -> None:
    chosen = ports.free(50)
    assert len(set(chosen)) == 50
    for port in chosen:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_was_taken_meanwhile_costs_one_more_attempt() -> None:
    tried: list[int] = []

    def start(chosen: list[int]) -> str:
        tried.extend(chosen)
        if len(tried) == 1:
            raise StackError("server: listen tcp 127.0.0.1:1: bind: address already in use")
        return "up"

    assert ports.binding(1, start) == "up"
    assert len(set(tried)) == 2


def test_another_error_is_not_tried_again() -> None:
    tried: list[int] = []

    def start(chosen: list[int]) -> None:
        tried.extend(chosen)
        raise StackError("no license")

    with pytest.raises(StackError, match="no license"):
        ports.binding(1, start)
    assert len(tried) == 1


# Certificates


def test_certificates_satisfy_strict_verification(tmp_path: Path) -> None:
    """Make a TLS handshake in which both sides verify, with OpenSSL in its strict mode."""
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
                accepts.join(60)
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


def test_the_folder_of_a_killed_run_is_removed_and_one_in_use_is_not(
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
    variables = environment.clean(tmp_path, EXTRA="1")
    assert "mine" not in variables.values()
    assert variables["HOME"] == str(tmp_path)
    assert variables["EXTRA"] == "1"


def test_a_stack_says_which_server_it_lacks() -> None:
    with pytest.raises(StackError, match="this stack has no temporal"):
        _ = Stack(with_product=False).temporal
    with pytest.raises(StackError, match="the product needs kubernetes, temporal, s3"):
        Stack(servers=["s3"])


# Waiting and Pods


def test_a_time_out_shows_the_last_value() -> None:
    with pytest.raises(waiting.WaitTimeout, match=r"(?s)not within 0.01 s: phase Running; last seen:.*Pending"):
        waiting.until(lambda: {"phase": "Pending"}, lambda pod: pod["phase"] == "Running", "phase Running", 0.01)


def test_a_gated_pod_has_the_fields_that_the_product_reads() -> None:
    pod = pods.gated("a", "s3://models/weights", gpus=2, gates=[names.GATE, "example.com/queue"])
    assert pod["metadata"]["annotations"] == {"x-openai/required-dataset": "s3://models/weights"}
    assert pods.gates(pod) == ["kube-cache.openai.com/gate", "example.com/queue"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pods.node(pod) == ""
    assert pods.condition(pod) == {}


UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
TEAM = {"key": "team", "value": "a", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("spec", "taints"),
    [
        ({"taints": [nodes.TAINT, TEAM]}, [nodes.TAINT]),
        ({"taints": [TEAM]}, []),
        ({"unschedulable": True, "taints": [nodes.TAINT, UNSCHEDULABLE]}, [nodes.TAINT, UNSCHEDULABLE]),
        ({"unschedulable": True}, []),
    ],
)
def test_a_node_that_a_test_closed_is_opened(spec: dict[str, Any], taints: list[dict[str, str]]) -> None:
    assert nodes.opening({"spec": spec}) == {"spec": {"unschedulable": None, "taints": taints}}


@pytest.mark.parametrize("spec", [{}, {"taints": [nodes.TAINT]}, {"taints": [UNSCHEDULABLE]}])
def test_a_node_is_left_as_it_was_made(spec: dict[str, Any]) -> None:
    assert nodes.opening({"spec": spec}) is None
