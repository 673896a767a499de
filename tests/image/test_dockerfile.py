"""The Dockerfile, as Docker reads it, and as the build without Docker does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tools.image import dockerfile
from tools.image.build import DOCKERFILE, ROOT, settings
from tools.image.dockerfile import Copy, Run, UnknownInstruction

_IMAGE = DOCKERFILE.parent


def test_the_build_without_docker_runs_what_the_dockerfile_runs_in_its_order() -> None:
    first, last = dockerfile.read(DOCKERFILE, {})
    text = DOCKERFILE.read_text()
    written = re.findall(r"^RUN (?:--mount=\S+ )*(.+)$", text, flags=re.MULTILINE)
    assert [step.command for step in first.steps if isinstance(step, Run)] == written
    assert [command.split("/")[-1] for command in written] == ["tools.sh", "base.sh", "dependencies.sh", "app.sh"]
    assert [step.sources for step in last.steps if isinstance(step, Copy)] == [
        (f"/out/{layer}/",) for layer in ("base", "dependencies", "app")
    ]
    assert len(last.steps) == 3


def test_the_image_has_a_numeric_user_the_command_and_its_labels() -> None:
    values = {"VERSION": "7.8.9", "REVISION": "abc", "CREATED": "2026-01-02T03:04:05Z"}
    config = settings(dockerfile.read(DOCKERFILE, values)[-1])
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["kube-cache"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert {name: labels[name] for name in ("version", "revision", "created", "licenses", "title")} == {
        "version": "7.8.9",
        "revision": "abc",
        "created": "2026-01-02T03:04:05Z",
        "licenses": "Apache-2.0",
        "title": "kube-cache",
    }


def test_the_version_of_a_build_with_docker_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE.read_text()


def test_the_image_is_of_any_architecture() -> None:
    for path in _IMAGE.iterdir():
        if path.suffix != ".lock":
            words = re.findall(r"x86.64|aarch64|arm64|amd64", path.read_text())
            # Debian's dynamic linker lies in /lib64 on one architecture, which one line minds; the header names both.
            assert path.name in {"Dockerfile", "base.sh"} or not words, (path, words)


def test_an_instruction_that_only_docker_would_know_is_refused(tmp_path: Path) -> None:
    for line in ("HEALTHCHECK NONE", "COPY --chown=1 a b", "RUN --mount=type=secret,id=x true", "ADD a b"):
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\n{line}\n")
        with pytest.raises(UnknownInstruction):
            dockerfile.read(tmp_path / "Dockerfile", {})


def test_the_locks_of_the_image_are_shares_of_the_projects_lock() -> None:
    def entries(path: Path) -> dict[str, frozenset[str]]:
        text = re.sub(r"^ *#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        lines = (line.split(" --hash=") for line in text.splitlines() if "==" in line)
        # Without the marker: a development tool may want on every system what the product wants on one.
        return {pin.partition(";")[0].strip(): frozenset(part.strip() for part in hashes) for pin, *hashes in lines}

    whole = entries(ROOT / "requirements.lock")
    product, build = entries(_IMAGE / "product.lock"), entries(_IMAGE / "build.lock")
    assert product.items() <= whole.items()
    assert build.items() <= whole.items()
    names = {pin.partition("==")[0] for pin in product}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=]", line)[0] for line in project["dependencies"]} <= names
    assert not names & {"pytest", "mypy", "hatchling", "awscrt"}
    assert all(hashes for hashes in (product | build).values())
