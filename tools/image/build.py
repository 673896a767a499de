"""Runs the Dockerfile's steps in a chroot and packs the image; steps whose inputs are unchanged are not run again.

A step is known by the content of what was copied before it and by the commands up to it. The chroot and the output of
each step are kept in `~/.cache/kube-cache/image` (`KUBE_CACHE_IMAGES` names another folder). A kept chroot has Debian's
packages of the day on which it was made: `fresh` takes today's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tools import caches
from tools.image import chroot, dockerfile, machine, oci
from tools.image.chroot import Chroot
from tools.image.dockerfile import Copy, Run, Stage
from tools.image.oci import Layer

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy/image/Dockerfile"
OUTPUT: Final = ROOT / "build/image"
_RECORD: Final = "steps.json"
# CI's root may work in somebody else's checkout.
_GIT: Final = ("git", "-c", "safe.directory=*")


@dataclass(frozen=True)
class Step:
    """What one step of a build took."""

    name: str
    seconds: float
    size: int = 0
    """Bytes that it made; 0 where nobody would ask."""
    packed: int = 0
    """Bytes, compressed."""
    kept: bool = False
    """Whether an earlier build had made it."""


@dataclass(frozen=True)
class Image:
    archive: Path
    """OCI layout in a tar."""
    sbom: Path
    digest: str
    """Of the image's manifest."""
    reference: str
    """Name and tag under which `ctr images import` stores it."""
    commands: tuple[str, ...]
    """What ran in the first stage, in order."""
    steps: tuple[Step, ...]


def build(
    output: Path = OUTPUT,
    *,
    fresh: bool = False,
    mirror: str = "",
    again: Collection[str] = (),
    tell: Callable[[Step], object] = lambda _: None,
) -> Image:
    """Build the image into `output`, and call `tell` after each step. Raises CannotBuild.

    fresh: take nothing of earlier builds. again: names of steps to run whether their inputs have changed or not.
    """
    chroot.check()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    created = datetime.fromtimestamp(_commit_time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    arguments = {"VERSION": version, "REVISION": _revision(), "CREATED": created}
    first, last = dockerfile.read(DOCKERFILE, arguments)
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        tell(step)

    with _locked(caches.folder("image", "KUBE_CACHE_IMAGES")) as cache:
        stage, keys = _run_stage(first, cache, fresh=fresh, mirror=mirror, again=again, done=done)
        layers = []
        for step in last.steps:
            assert isinstance(step, Copy)
            begin = time.monotonic()
            source = stage / step.sources[0].strip("/")
            layer, is_kept = _pack(source, cache / "layers", keys[source.name], anew=source.name in again)
            layers.append(layer)
            seconds = time.monotonic() - begin
            done(Step(f"pack {layer.name}", seconds, layer.unpacked, len(layer.blob), kept=is_kept))
        output.mkdir(parents=True, exist_ok=True)
        sbom = output / "kube-cache.cdx.json"
        shutil.copyfile(stage / "out/app/usr/share/kube-cache/sbom.cdx.json", sbom)
    begin = time.monotonic()
    reference = f"docker.io/library/kube-cache:{version}"
    content, digest = oci.archive(
        layers, settings(last), architecture=machine.architecture(), created=created, reference=reference
    )
    archive = output / "kube-cache.tar"
    temporary = archive.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(archive)
    done(Step("write", time.monotonic() - begin, sum(layer.unpacked for layer in layers), len(content)))
    commands = tuple(step.command for step in first.steps if isinstance(step, Run))
    return Image(archive, sbom, digest, reference, commands, tuple(steps))


def settings(stage: Stage) -> dict[str, Any]:
    """Return the `config` of an OCI image as the stage sets it."""
    return {
        "User": stage.user,
        "Env": [f"{name}={value}" for name, value in stage.environment.items()],
        "Entrypoint": list(stage.entrypoint),
        "Cmd": list(stage.command),
        "WorkingDir": stage.folder,
        "Labels": stage.labels,
    }


def _pack(source: Path, kept: Path, key: str, *, anew: bool) -> tuple[Layer, bool]:
    """Return the layer, and whether an earlier build had packed it."""
    blob, facts = kept / f"{source.name}.tar.gz", kept / f"{source.name}.json"
    known = json.loads(facts.read_text()) if facts.exists() else {}
    if known.get("key") == key and not anew:
        return Layer(source.name, blob.read_bytes(), known["diff_id"], known["unpacked"]), True
    layer = oci.layer(source.name, source)
    kept.mkdir(exist_ok=True)
    facts.unlink(missing_ok=True)
    blob.write_bytes(layer.blob)
    facts.write_text(json.dumps({"key": key, "diff_id": layer.diff_id, "unpacked": layer.unpacked}))
    return layer, False


def _run_stage(
    stage: Stage, cache: Path, *, fresh: bool, mirror: str, again: Collection[str], done: Callable[[Step], None]
) -> tuple[Path, dict[str, str]]:
    """Bring the chroot to the end of the stage; return its folder, and the key of each step."""
    release = stage.base.partition(":")[2].removesuffix("-slim")
    room = Chroot(cache / "root", machine.archives(release, mirror), cache / "kept")
    record = cache / _RECORD
    made: list[str] = json.loads(record.read_text()) if record.exists() and not fresh else []
    chain = hashlib.sha256(f"{release} {machine.architecture()}".encode())
    keys: list[str] = []
    key_of: dict[str, str] = {}

    def turn(name: str, act: Callable[[], None], *, size: Callable[[], int] = lambda: 0) -> None:
        key = chain.hexdigest()
        keys.append(key)
        key_of[name] = key
        begin = time.monotonic()
        is_made = made[: len(keys)] == keys and name not in again
        if not is_made:
            record.write_text(json.dumps(keys[:-1]))
            act()
        record.write_text(json.dumps(keys))
        done(Step(name, time.monotonic() - begin, size(), kept=is_made))

    turn("debootstrap", lambda: room.create(release))
    copies: list[Copy] = []
    for step in stage.steps:
        if isinstance(step, Copy):
            copies.append(step)
            for path in _files(step):
                chain.update(
                    f"\0{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o111}\0".encode() + path.read_bytes()
                )
            continue
        chain.update(f"\0{step.command}".encode())

        def act(step: Run = step) -> None:
            _place(copies, room.folder)
            room.run(step.command, stage.folder, step.caches)

        script = Path(step.command.split()[-1]).stem
        turn(script, act, size=lambda script=script: _size(room.folder / "out" / script))  # type: ignore[misc]
    # Equal commands on another day's packages make other layers.
    return room.folder, {name: f"{room.made_at()} {key}" for name, key in key_of.items()}


def _files(copy: Copy) -> Iterator[Path]:
    """Yield the files of the checkout that an instruction copies: what git has, or would add."""
    command = [*_GIT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *copy.sources]
    names = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split("\0")
    yield from (path for name in sorted(filter(None, set(names))) if (path := ROOT / name).is_file())


def _place(copies: list[Copy], room: Path) -> None:
    shutil.rmtree(room / "src")
    for copy in copies:
        for path in _files(copy):
            source = ROOT / copy.sources[0]
            below = path.relative_to(source) if len(copy.sources) == 1 and source.is_dir() else Path(path.name)
            target = room / copy.target.strip("/") / below
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _git(*words: str) -> str:
    return subprocess.run([*_GIT, *words], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def _commit_time() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))


def _revision() -> str:
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")


@contextmanager
def _locked(cache: Path) -> Iterator[Path]:
    """Let one build at a time use the chroot."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache
