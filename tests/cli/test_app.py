"""The command line as a whole: exit codes, completion, the name under which kubectl runs it, what a process loads."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

_NO_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def run(*args: str, code: int = 0, program: str = "", **environment: str) -> str:
    """Run `kube-cache` with these arguments; return what it printed. program: the path under which it is started."""
    command = [sys.executable, "-m", "cli.main"]
    if program:
        command = [sys.executable, "-c", f"import sys; sys.argv[0] = {program!r}; from cli.main import main; main()"]
    done = subprocess.run(
        [*command, *args], env=_NO_ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_help_names_every_command_and_asking_for_none_is_wrong_usage() -> None:
    for text in (run("--help"), run("-h"), run(code=2)):
        for command in ("operator", "agent", "store"):
            assert command in text


def test_it_says_its_version() -> None:
    assert run("--version") == f"kube-cache {version('kube-cache')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stauts"], "stauts"),
        (["store", "ls", "--jsn"], "--json"),
        (["store", "evict"], "digest"),
        (["store", "scrub", "--rate", "-1"], "a rate is not negative"),
        (["agent", "now"], "now"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(arguments: list[str], words: str) -> None:
    assert words in run(*arguments, code=2)


@pytest.mark.parametrize("process", ["operator", "agent"])
def test_a_process_loads_neither_parser_nor_rich(process: str) -> None:
    script = (
        "import sys; from cli import main, processes;"
        "processes.PROCESSES[sys.argv[1]] = lambda: bool(__import__('structlog')) + 2;"
        "code = main._run([sys.argv[1]]); assert code == 3;"
        "print(sorted({'typer', 'rich', 'rich.console', 'click'} & {name for name, each in sys.modules.items() if each}))"
    )
    done = subprocess.run([sys.executable, "-c", script, process], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kubectl_runs_it_as_a_plugin_which_names_itself_as_people_typed_it() -> None:
    scripts = Path(sys.executable).parent
    assert os.access(scripts / "kubectl-kube_cache", os.X_OK), "make setup installs the plugin"
    assert "Usage: kubectl kube-cache store" in run("store", "--help", program=str(scripts / "kubectl-kube_cache"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands(shell: str) -> None:
    # Else typer asks which shell the test was started from.
    assert "kube-cache" in run("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    words = {"COMP_WORDS": "kube-cache st", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "kube-cache st"}
    assert "store" in run(_KUBE_CACHE_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **words)


def test_a_reader_that_has_seen_enough_is_no_error_worth_a_traceback() -> None:
    command = f"{sys.executable} -m cli.main --help | true"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
