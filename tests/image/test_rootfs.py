"""The image itself: what runs in it as its user on a read-only file system, and what is not there.

Needs root and debootstrap; the first build on a machine takes minutes, later ones seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.image.unpacked import Unpacked
from tools import image
from tools.image.build import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # a first build, with another one's servers beside it

_IMPORT_ALL = """
import importlib, json, pkgutil
import activities, cli, kube_cache, watcher, workflows
names = [found.name for package in (activities, cli, kube_cache, watcher, workflows)
         for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""
_CREDENTIALS = """
import botocore.session
session = botocore.session.get_session()
for service in ("s3", "sts", "sso", "sso-oidc", "signin"):
    session.create_client(service, region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    print(service)
session.get_component("credential_provider")
"""
_LINKED = """
import os, subprocess, sys
loader = next(os.path.join(folder, name) for folder in ("/lib64", "/lib", "/usr/lib") if os.path.isdir(folder)
              for name in sorted(os.listdir(folder)) if name.startswith("ld-linux"))
count = 0
for top, _, names in os.walk("/usr"):
    for name in names:
        path = os.path.join(top, name)
        if os.path.islink(path) or open(path, "rb").read(4) != b"\\x7fELF" or name.startswith("ld-linux"):
            continue
        count += 1
        result = subprocess.run([loader, "--list", path], capture_output=True, text=True)
        if result.returncode or "not found" in result.stdout:
            print("error:", path, result.stdout, result.stderr)
print(count)
"""


def test_the_command_says_its_version_and_its_help(unpacked: Unpacked) -> None:
    version = unpacked.run("kube-cache", "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.split()[-1] == unpacked.config["config"]["Labels"]["org.opencontainers.image.version"]
    assert "agent" in unpacked.run("kube-cache", "--help").stdout


@pytest.mark.parametrize(
    ("process", "environment", "named"),
    [
        pytest.param("agent", {}, "KUBE_CACHE_AGENT__NODE", id="agent without its node"),
        pytest.param("operator", {"KUBE_CACHE_OPERATOR__NAMSPACE": "x"}, "NAMSPACE", id="operator with a misspelling"),
    ],
)
def test_a_process_says_which_setting_is_wrong(
    unpacked: Unpacked, process: str, environment: dict[str, str], named: str
) -> None:
    result = unpacked.run("kube-cache", process, **environment)
    assert result.returncode != 0
    assert named in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_every_module_of_the_product_can_be_imported_without_what_was_trimmed(unpacked: Unpacked) -> None:
    result = unpacked.run("python3", "-c", _IMPORT_ALL)
    assert result.returncode == 0, result.stderr
    packages = ("activities", "cli", "kube_cache", "watcher", "workflows")
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= set(json.loads(result.stdout.splitlines()[-1]))


def test_the_services_that_hand_out_credentials_are_there(unpacked: Unpacked) -> None:
    result = unpacked.run("python3", "-c", _CREDENTIALS)
    assert (result.returncode, result.stdout.split()) == (0, ["s3", "sts", "sso", "sso-oidc", "signin"]), result.stderr


def test_the_agents_log_says_at_its_start_that_native_tls_and_checksums_run(unpacked: Unpacked) -> None:
    settings = {
        "KUBE_CACHE_AGENT__NODE": "n",
        "KUBE_CACHE_STORE__ROOT": "/tmp/cache",  # in memory, which a node's cache must not be
        "KUBE_CACHE_STORE__ALLOW_ROOT_DISK": "true",
        "KUBE_CACHE_TELEMETRY__HTTP_ADDRESS": "",
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
    }
    with unpacked.running("kube-cache", "agent", **settings) as log:
        lines = []
        for line in log:
            lines.append(line)
            if "receives TLS" in line:
                break
    assert "receives TLS by its own module" in lines[-1], lines
    assert "CRC64NVME" in lines[-1]
    assert "Python" not in lines[-1]


def test_every_native_module_is_there(unpacked: Unpacked) -> None:
    natives = {path.name for path in unpacked.root.rglob("kube_cache/**/*.so")}
    stems = ("_crc", "_receive", "_tls", "_check", "_ed25519", "_x509")
    assert natives == {f"{stem}.abi3.so" for stem in stems}
    linked = "from kube_cache.store import check; print(check._native)"
    assert "_check.abi3.so" in unpacked.run("python3", "-c", linked).stdout


def test_every_library_that_a_file_is_linked_with_is_there(unpacked: Unpacked) -> None:
    result = unpacked.run("python3", "-c", _LINKED)
    assert result.returncode == 0, result.stderr
    assert "error:" not in result.stdout
    assert int(result.stdout) > 50


def test_there_is_no_shell_no_compiler_and_no_installer(unpacked: Unpacked) -> None:
    programs = {
        path.relative_to(unpacked.root).as_posix()
        for path in unpacked.root.rglob("*")
        if path.parent.name in {"bin", "sbin"} and not path.is_dir()
    }
    assert programs == {"usr/bin/python3", "usr/bin/python3.11", "usr/local/bin/kube-cache"}
    names = {path.name for path in unpacked.root.rglob("*")}
    assert not names & {"pip", "ensurepip", "setuptools", "hatchling", "Python.h"}


def test_nothing_has_rights_that_its_user_has_not_and_nothing_can_be_changed(unpacked: Unpacked) -> None:
    files = [path for path in unpacked.root.rglob("*") if not path.is_symlink() and "proc" not in path.parts]
    assert not [path for path in files if path.stat().st_mode & 0o6000 and path.is_file()]
    assert not [path for path in files if path.is_file() and path.stat().st_mode & 0o022]
    assert not [path for path in files if path.is_file() and not path.stat().st_mode & 0o004]


def test_its_byte_code_is_used_and_never_compared_with_a_clock(unpacked: Unpacked) -> None:
    caches = list(unpacked.root.rglob("*.pyc"))
    assert len(caches) > 1000
    # PEP 552: flags 0b01 = by hash, without 0b10 = not checked when it is loaded.
    assert {path.read_bytes()[4:8] for path in caches} == {b"\x01\0\0\0"}


def test_the_list_of_parts_names_every_package_and_every_distribution(unpacked: Unpacked) -> None:
    sbom = unpacked.sbom()
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    components = [*sbom["components"], sbom["metadata"]["component"]]
    named = {(part["purl"].split("/")[0], part["name"], part["version"]) for part in components}
    for path in (unpacked.root / "var/lib/dpkg/status.d").iterdir():
        version = next(line for line in path.read_text().splitlines() if line.startswith("Version: "))
        assert ("pkg:deb", path.name, version.partition(" ")[2]) in named
    distributions = sorted(unpacked.root.glob("usr/local/lib/python3.*/dist-packages/*.dist-info"))
    folders = {f"{name.replace('-', '_')}-{version}" for kind, name, version in named if kind == "pkg:pypi"}
    assert {path.name.removesuffix(".dist-info").lower() for path in distributions} == folders
    assert len(distributions) > 30
    # Each has the hash of the file that was installed; the product itself is made here.
    assert all(part["hashes"][0]["alg"] == "SHA-256" for part in sbom["components"])


def test_every_wheel_is_one_that_the_lock_allows(unpacked: Unpacked) -> None:
    lock = (ROOT / "deploy/image/product.lock").read_text()
    for part in unpacked.sbom()["components"]:
        if part["purl"].startswith("pkg:pypi"):
            assert f"\n{part['name']}=={part['version']} " in f"\n{lock}"
            assert f"--hash=sha256:{part['hashes'][0]['content']}" in lock


def test_an_image_built_again_is_the_same_to_the_last_byte(
    built: image.Image, unpacked: Unpacked, tmp_path: Path
) -> None:
    steps = os.environ.get("KUBE_CACHE_TEST_STEPS", "base app").split()
    again = image.build(tmp_path, again=steps)
    assert [step.name for step in again.steps if not step.kept and step.name in steps] == steps
    assert again.digest == built.digest
    assert again.archive.read_bytes() == built.archive.read_bytes()
    sbom = (unpacked.root / "usr/share/kube-cache/sbom.cdx.json").read_bytes()
    assert again.sbom.read_bytes() == built.sbom.read_bytes() == sbom


def test_the_archive_is_what_a_runtime_imports(built: image.Image, unpacked: Unpacked) -> None:
    (described,) = unpacked.index["manifests"]
    assert described["digest"] == built.digest
    assert described["annotations"]["io.containerd.image.name"] == built.reference
    assert unpacked.config["config"]["User"] == "65532:65532"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert unpacked.config["config"]["Labels"]["org.opencontainers.image.revision"].startswith(head.strip())
