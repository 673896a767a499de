"""The builder of the servers: the cache, builds, and messages of failed builds. `go` is a stand-in script here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools.servers import build, cache, pins
from tools.servers.errors import BuildFailed, NetworkDown, ToolchainMissing, UnknownServer
from tools.servers.pins import PINS, Pin

CHECKOUT = Path(__file__).parents[2]
KWOK = PINS["kwok"]

# A `go` that answers `go env GOVERSION`, and on `go install` writes a program into $GOBIN that prints $SAYS.
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo "${FAKE_GO_VERSION:-go1.26.8}"; exit 0; fi
echo "$@" >> "$GO_LOG"
if [ -n "$GO_FAILS" ]; then echo "$GO_FAILS" >&2; exit 1; fi
sleep "${GO_TAKES:-0}"
printf '#!/bin/sh\\necho "%s"\\n' "${SAYS:-kwok version v0.8.0 go1.26.8}" > "$GOBIN/kwok"
chmod +x "$GOBIN/kwok"
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on an otherwise plain PATH and the cache into a fresh folder; return the log of builds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script(folder / "go", FAKE_GO)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("KUBE_CACHE_SERVERS", str(tmp_path / "cache"))
    log = tmp_path / "go.log"
    log.touch()
    monkeypatch.setenv("GO_LOG", str(log))
    return log


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def quiet(_: str) -> None: ...


def test_a_build_is_done_once_and_found_again(fake_go: Path) -> None:
    first = build.ensure(["kwok"], quiet)["kwok"]
    assert subprocess.check_output([first], text=True).startswith("kwok version v0.8.0")
    assert build.ensure(["kwok"], quiet)["kwok"] == first
    assert fake_go.read_text().count("install") == 1
    assert "sigs.k8s.io/kwok/cmd/kwok@v0.8.0" in fake_go.read_text()


def test_progress_names_the_server_its_place_and_the_time(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TICK_S", 0.05)
    monkeypatch.setenv("GO_TAKES", "0.2")
    lines: list[str] = []
    build.ensure(["kwok"], lines.append)
    assert lines[0].startswith("servers: 1 to build into ")
    assert lines[1].startswith("[1/1] kwok 0.8.0: building (first build about")
    assert lines[2].startswith("[1/1] kwok 0.8.0: building, ")
    assert lines[-1].startswith("[1/1] kwok 0.8.0: built in ")


def test_two_checkouts_build_the_same_server_once(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_TAKES", "0.3")
    paths: list[Path] = []
    lines: list[str] = []
    builds = [
        threading.Thread(target=lambda: paths.append(build.ensure(["kwok"], lines.append)["kwok"])) for _ in range(2)
    ]
    for thread in builds:
        thread.start()
    for thread in builds:
        thread.join()
    assert fake_go.read_text().count("install") == 1
    assert paths[0] == paths[1]
    assert any("another build is at it" in line for line in lines)


def test_a_failed_build_leaves_nothing_behind_and_names_its_log(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_FAILS", "main.go:3:1: syntax error")
    with pytest.raises(BuildFailed, match=r"kwok 0.8.0 does not build .*syntax error \(log: .*kwok.log\)"):
        build.ensure(["kwok"], quiet)
    assert cache.cached(KWOK) is None
    monkeypatch.delenv("GO_FAILS")
    assert build.ensure(["kwok"], quiet)["kwok"].exists()


def test_a_build_that_reports_another_version_is_not_published(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "kwok version v0.7.0")
    with pytest.raises(BuildFailed, match=r"reports 'kwok version v0.7.0' instead of 0.8.0"):
        build.ensure(["kwok"], quiet)
    assert cache.cached(KWOK) is None


@pytest.mark.parametrize(
    "output",
    [
        'go: sigs.k8s.io/kwok@v0.8.0: Get "https://proxy/": dial tcp: lookup proxy: no such host',
        'go: sigs.k8s.io/kwok@v0.8.0: Get "https://proxy/": dial tcp 10.0.0.1:443: connect: connection refused',
        "go: module lookup disabled by GOPROXY=off",
        "reading https://proxy/x.info: 503 Service Unavailable",
    ],
    ids=["dns", "refused", "proxy-off", "503"],
)
def test_no_network_is_one_line_that_says_so(fake_go: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.setenv("GO_FAILS", output)
    with pytest.raises(NetworkDown, match="cannot download the modules of kwok: check the network") as stopped:
        build.ensure(["kwok"], quiet)
    assert "\n" not in str(stopped.value)


def test_no_go_is_one_line_that_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.servers", "kwok"],
        cwd=CHECKOUT,
        env={"PATH": str(tmp_path), "KUBE_CACHE_SERVERS": str(tmp_path / "cache"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: Go 1.26.4 or newer is needed to build the servers")
    assert result.stderr.count("\n") == 1


def test_an_old_go_is_named(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", "go1.22.1")
    with pytest.raises(ToolchainMissing, match=r"Go 1.26.4 or newer is needed .*says: go1.22.1"):
        build.ensure(["kwok"], quiet)


def test_what_is_cached_needs_no_go(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build.ensure(["kwok"], quiet)["kwok"]
    monkeypatch.setenv("PATH", "/nonexistent")
    assert build.ensure(["kwok"], quiet)["kwok"] == built


def test_an_unknown_server_is_named() -> None:
    with pytest.raises(UnknownServer, match="unknown server kwak; known: etcd, "):
        build.ensure(["kwak"], quiet)


@pytest.mark.parametrize(
    ("version", "used"),
    [
        ("kwok version v0.8.0 go1.24.0 (linux/amd64)", True),
        ("kwok version v0.8.3 go1.24.0 (linux/amd64)", True),
        ("kwok version v0.7.0 go1.24.0 (linux/amd64)", False),
        ("kwok version v0.9.0 go1.24.0 (linux/amd64)", False),
        ("kwok version v0.8.0-dispatcher", False),
        ("usage: something else", False),
    ],
    ids=["same", "newer-patch", "older", "newer-minor", "dispatcher", "no-version"],
)
def test_the_users_own_binary_is_used_when_its_version_fits(
    fake_go: Path, tmp_path: Path, version: str, used: bool
) -> None:
    own = tmp_path / "bin" / "kwok"
    script(own, f"#!/bin/sh\necho '{version}'\n")
    cache.on_path.cache_clear()
    chosen = build.ensure(["kwok"], quiet)["kwok"]
    assert (chosen == own) is used
    assert (fake_go.read_text() == "") is used


def test_the_users_own_binary_that_fails_is_not_used(fake_go: Path, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "kwok", "#!/bin/sh\necho 'kwok version v0.8.0'\nexit 3\n")
    cache.on_path.cache_clear()
    assert build.ensure(["kwok"], quiet)["kwok"] != tmp_path / "bin" / "kwok"


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.8.1"},
        {"package": "sigs.k8s.io/kwok/cmd/kwokctl"},
        {"tags": "netgo"},
        {"stamps": {"main.Version": "1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_cache_key_follows_what_is_built(change: dict[str, object]) -> None:
    changed = Pin(**{**vars(KWOK), **change})
    assert cache.source_key(changed) != cache.source_key(KWOK)


def test_the_cache_key_follows_the_wrapper_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = PINS["etcd"]
    before = cache.source_key(etcd)
    copy = tmp_path / "etcd"
    copy.mkdir()
    for path in (pins.WRAPPERS / "etcd").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(cache, "WRAPPERS", tmp_path)
    assert cache.source_key(etcd) == before
    (copy / "go.sum").write_text("")
    assert cache.source_key(etcd) != before


def test_the_cache_is_outside_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBE_CACHE_SERVERS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.root() == Path(os.environ["HOME"]) / ".cache" / "kube-cache" / "servers"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/kube-cache/servers")


@pytest.mark.parametrize("pin", PINS.values(), ids=PINS)
def test_wrapper_modules_pin_the_version_that_the_pin_names(pin: Pin) -> None:
    """`pins.py` cannot promise a version that go.mod does not build."""
    if not pin.wrapper:
        return
    modules = (pins.WRAPPERS / pin.wrapper / "go.mod").read_text()
    module = {
        "etcd": "go.etcd.io/etcd/server/v3",
        "temporal": "github.com/temporalio/cli",
        "kubernetes": "k8s.io/kubernetes",
        "s5cmd": "github.com/peak/s5cmd/v2",
        "karpenter": "sigs.k8s.io/karpenter",
    }[pin.wrapper]
    assert f"{module} v{pin.version}" in modules
