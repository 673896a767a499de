"""What the docs say to type can be typed: files, targets, modules, subcommands and options that are there."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperCommand, TyperGroup

from cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "CHANGELOG.md"]
CONSOLE = re.compile(r"^ *```(?:console|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FENCED_YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Where a reader may stand: at the root, or where the short names are.
FOLDERS = (ROOT, ROOT / "deploy")
# Files that a reader writes.
THEIRS = {"pod.yaml", "values.yaml"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
COMMANDS = typer.main.get_command(app)


def typed(text: str) -> Iterator[list[str]]:
    """Words of each command that a page shows after a prompt, and of each that it is piped into or followed by."""
    for block in CONSOLE.findall(text):
        for line in re.findall(r"^ *\$ (.*)", block.replace("\\\n", " "), flags=re.MULTILINE):
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in lexer:
                if set(word) <= set("|;&"):
                    yield words
                    words = []
                else:
                    words.append(word)
            yield words


def wrong(words: list[str]) -> str:
    """What is not there of what the command names; empty if all is."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    match words:
        case ["make", *arguments]:
            return ", ".join(f"no target {each}" for each in arguments if "=" not in each and each not in TARGETS)
        case ["kube-cache", *arguments] | ["kubectl", "kube-cache", *arguments]:
            return unknown(arguments)
        case [python, "-m", module, *_] if python.endswith("python") and module.startswith(("tools.", "tests.")):
            path = ROOT / module.replace(".", "/")
            return "" if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else f"no module {module}"
        case ["kubectl" | "helm" | "docker", *arguments]:
            flags = {"-f", "--filename", "--file", "--values"}
            named = [value for flag, value in itertools.pairwise(arguments) if flag in flags and value != "-"]
            named += [word for word in arguments if word.startswith("deploy/") and word not in named]
            return ", ".join(f"no file {file}" for file in named if file not in THEIRS and not is_there(file))
    return ""


def is_there(file: str) -> bool:
    return file.startswith("http") or any((folder / file).exists() for folder in FOLDERS)


def unknown(arguments: list[str]) -> str:
    """Subcommand or option that `kube-cache` does not have."""
    command: object = COMMANDS
    for argument in arguments:
        if isinstance(command, TyperGroup) and "://" in argument:
            command = command.commands["start"]  # of `prefetch`, which may be left out
        elif isinstance(command, TyperGroup) and not argument.startswith("-"):
            if argument not in command.commands:
                return f"no subcommand {argument}"
            command = command.commands[argument]
        elif argument.startswith("-") and not re.match(r"-+\d", argument):
            assert isinstance(command, TyperCommand | TyperGroup)
            options = {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}
            if argument.partition("=")[0] not in options:
                return f"no option {argument}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_names_what_is_there(page: Path) -> None:
    assert {" ".join(words): reason for words in typed(page.read_text()) if (reason := wrong(words))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_yaml_block_can_be_read(page: Path) -> None:
    for block in FENCED_YAML.findall(page.read_text()):
        list(yaml.safe_load_all(block))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("make demo | tee log", ""),
        ("make demonstration", "no target demonstration"),
        ("kube-cache why a/b --json; kube-cache whyever a/b", "no subcommand whyever"),
        ("kubectl kube-cache store evict --nod a", "no option --nod"),
        ("kubectl apply -f monitoring.yaml -f gone.yaml", "no file gone.yaml"),
        (".venv/bin/python -m tools.gone", "no module tools.gone"),
        ("docker build \\\n  -f deploy/gone .", "no file deploy/gone"),
    ],
)
def test_what_is_not_there_is_found(line: str, reason: str) -> None:
    found = [wrong(words) for words in typed(f"```console\n$ {line}\n```\n")]
    assert [each for each in found if each] == ([reason] if reason else [])
