"""Builds pinned servers into the cache, one after another, and reports progress.

One at a time on purpose: the Go compiler already uses every core. Two checkouts that need the same binary build it
once (a file lock), and no half binary is ever visible (built in a temporary folder, proven to run, renamed).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.servers import cache
from tools.servers.errors import BuildFailed, NetworkDown, ToolchainMissing, UnknownServer
from tools.servers.pins import DEFAULT, GO_MINIMUM, PINS, WRAPPERS, Pin

Report = Callable[[str], None]

_TICK_S = 15
"""Interval of the progress lines of a running build; long enough for a CI log."""

_NETWORK = re.compile(
    r"dial tcp|no such host|connection refused|connection reset|i/o timeout|TLS handshake|proxyconnect|network is unreachable"
    r"|server misbehaving|module lookup disabled|50[234] |unexpected EOF",
    re.IGNORECASE,
)
_MINIMUM = ".".join(str(part) for part in GO_MINIMUM)


def report_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pins(names: Iterable[str]) -> list[Pin]:
    chosen = set(names)
    if unknown := sorted(chosen - PINS.keys()):
        raise UnknownServer(f"unknown server {', '.join(unknown)}; known: {', '.join(PINS)}")
    return [pin for name, pin in PINS.items() if name in chosen]


def ensure(names: Iterable[str] = DEFAULT, report: Report = report_to_stderr) -> dict[str, Path]:
    """Return the paths of the named servers; builds those that are missing. Raises ServerError."""
    paths: dict[str, Path] = {}
    missing: list[Pin] = []
    for pin in pins(names):
        path = cache.locate(pin)
        if path is None:
            missing.append(pin)
        else:
            paths[pin.name] = path
    if missing:
        go = go_version()
        total = sum(pin.build_s for pin in missing)
        report(
            f"servers: {len(missing)} to build into {cache.root()} with {go}; about {_minutes(total)} from scratch on 2 cores"
        )
        for number, pin in enumerate(missing, 1):
            paths[pin.name] = _build(pin, go, f"[{number}/{len(missing)}] {pin.name} {pin.version}", report)
    return paths


def go_version() -> str:
    """Return the Go release that will build, as `go1.26.8`; a wrapper's go.mod may switch the toolchain."""
    if shutil.which("go") is None:
        raise ToolchainMissing(
            f"Go {_MINIMUM} or newer is needed to build the servers: install it (https://go.dev/dl) and put `go` on PATH"
        )
    result = subprocess.run(
        ["go", "env", "GOVERSION"],
        cwd=WRAPPERS / "temporal",
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    version = result.stdout.strip()
    if result.returncode == 0 and tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= GO_MINIMUM:
        return version
    if _NETWORK.search(result.stderr):
        raise NetworkDown(_network_message("a Go toolchain", result.stderr))
    answer = version or _last_line(result.stderr)
    raise ToolchainMissing(f"Go {_MINIMUM} or newer is needed to build the servers; `go` on PATH says: {answer}")


def _build(pin: Pin, go: str, title: str, report: Report) -> Path:
    target = cache.folder(pin) / go / pin.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache.root() / f"{pin.name}.lock", lambda: report(f"{title}: another build is at it, waiting")):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
            built = _compile(pin, Path(scratch), title, report)
            reported = cache.reported_version(built, pin)
            if not cache.fits(reported, pin.version):
                raise BuildFailed(
                    f"{pin.name} was built but reports {_last_line(reported)!r} instead of {pin.version}: mend its entry in pins.py"
                )
            built.replace(target)
    return target


def _compile(pin: Pin, scratch: Path, title: str, report: Report) -> Path:
    log = cache.root() / f"{pin.name}.log"
    flags = ["-ldflags", pin.ldflags, *(["-tags", pin.tags] if pin.tags else [])]
    if pin.wrapper:
        argv = ["go", "build", *flags, "-o", str(scratch / pin.name), pin.package]
        folder = WRAPPERS / pin.wrapper
    else:
        argv = ["go", "install", *flags, f"{pin.package}@v{pin.version}"]
        folder = scratch
    started = time.monotonic()
    report(f"{title}: building (first build about {pin.build_s} s)")
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, cwd=folder, env=_environment(scratch), stdout=out, stderr=out) as child,
    ):
        while True:
            try:
                code = child.wait(_TICK_S)
                break
            except subprocess.TimeoutExpired:
                report(f"{title}: building, {time.monotonic() - started:.0f} s")
            except BaseException:
                child.kill()
                raise
    elapsed = time.monotonic() - started
    if code != 0:
        output = log.read_text(errors="replace")
        if _NETWORK.search(output):
            raise NetworkDown(_network_message(f"the modules of {pin.name}", output))
        raise BuildFailed(
            f"{pin.name} {pin.version} does not build (exit {code} after {elapsed:.0f} s): {_last_line(output)} (log: {log})"
        )
    report(f"{title}: built in {elapsed:.0f} s")
    # `go install` names the binary after the last part of the package path.
    return scratch / pin.name if pin.wrapper else scratch / pin.package.rsplit("/", 1)[-1]


def _environment(gobin: Path | None = None) -> dict[str, str]:
    environment = {**os.environ, **cache.GO_ENVIRONMENT}
    environment.pop("GOOS", None)
    environment.pop("GOARCH", None)
    if gobin is not None:
        environment["GOBIN"] = str(gobin)
    return environment


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _network_message(missing: str, output: str) -> str:
    line = next((line for line in output.splitlines() if _NETWORK.search(line)), "").strip()
    return f"cannot download {missing}: check the network, or point GOPROXY at a mirror that is reachable ({line})"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _minutes(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{seconds / 60:.0f} min"
