"""What a build without Docker needs of a machine, and what it takes from it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools import image
from tools.image import chroot, machine
from tools.image.build import ROOT

_TARGETS = """\
Packages|http://mirror.test/debian/|bookworm|main|Debian
Packages|http://mirror.test/debian/|bookworm|contrib|Debian
Translations|http://mirror.test/debian/|bookworm|main|Debian
Packages|http://mirror.test/debian-security/|bookworm-security|main|Debian-Security
Packages|https://other.test/apt/|bookworm|main|Somebody
"""


def _answers(targets: str) -> object:
    return lambda *command: targets if command[0] == "apt-get" else 'Acquire::Languages "none";\n'


def test_without_root_it_says_so_and_names_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(image.CannotBuildHere, match=r"needs root.*docker build -f deploy/image/Dockerfile"):
        image.build()


def test_without_debootstrap_it_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(chroot.shutil, "which", lambda name: None if name == "debootstrap" else f"/bin/{name}")
    with pytest.raises(image.CannotBuildHere, match=r"needs debootstrap .*apt-get install debootstrap"):
        image.build()


def test_where_root_may_not_mount_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(chroot.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(chroot, "_UNSHARE", ("sh", "-c", "echo unshare failed: EPERM >&2; exit 1"))
    with pytest.raises(image.CannotBuildHere, match=r"denies root: unshare failed: EPERM; with Docker"):
        image.build()


def test_packages_come_from_where_this_machines_apt_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", _answers(_TARGETS))
    archives = machine.archives("bookworm")
    assert archives.mirror == "http://mirror.test/debian/"
    assert archives.sources == (
        "deb http://mirror.test/debian/ bookworm main\ndeb http://mirror.test/debian-security/ bookworm-security main\n"
    )
    assert archives.settings.startswith('Acquire::Languages "none";\n')


def test_another_mirror_has_the_updates_and_the_security_updates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", _answers(""))
    day = "/20261101T000000Z"
    for given, site, date in (
        ("", "http://deb.debian.org", ""),
        (f"http://snapshot.debian.org/archive/debian{day}", "http://snapshot.debian.org/archive", day),
    ):
        archives = machine.archives("bookworm", given)
        assert archives.sources == (
            f"deb {site}/debian{date} bookworm main\n"
            f"deb {site}/debian{date} bookworm-updates main\n"
            f"deb {site}/debian-security{date} bookworm-security main\n"
        )
        assert ("Check-Valid-Until" in archives.settings) == bool(given)


def test_the_failure_of_a_step_is_told_by_its_own_last_words() -> None:
    script = "from tools.image.chroot import _call; _call(['sh', '-c', 'echo no room; exit 3'], 'a step')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "CannotBuild: `a step` ended with exit code 3; the end of its output:\nno room" in done.stderr
