"""What a build takes from this machine: Debian's archives as apt is configured here, and pip's index, by its settings.

Nothing of it reaches the image. In the chroot the archives are the sources of apt, and pip's settings its environment.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FORMAT: Final = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(LABEL)"
_PUBLIC: Final = "http://deb.debian.org/debian"
"""Where docker's image of Debian takes packages from."""


@dataclass(frozen=True)
class Archives:
    mirror: str
    """Of the release itself, for debootstrap."""
    sources: str
    """Content of a sources.list."""
    settings: str
    """Of apt's downloads: proxies, checks of dates."""


def archives(release: str, mirror: str = "") -> Archives:
    """Return Debian's archives as this machine's apt knows them. mirror: another one of the release and its updates."""
    settings = _output("apt-config", "dump", "Acquire") + 'Acquire::Retries "3";\n'
    found = []
    for line in _output("apt-get", "indextargets", "--format", _FORMAT).splitlines():
        created_by, uri, name, component, label = line.split("|")
        if created_by == "Packages" and component == "main" and name.startswith(release) and label.startswith("Debian"):
            found.append((uri, name))
    if mirror:
        settings += 'Acquire::Check-Valid-Until "false";\n'  # a mirror of a past day says that it is out of date
    if mirror or not any(name == release for _, name in found):
        mirror = mirror or _PUBLIC
        security = mirror.replace("/debian", "/debian-security", 1)
        found = [(mirror, release), (mirror, f"{release}-updates"), (security, f"{release}-security")]
    sources = "".join(f"deb {uri} {name} main\n" for uri, name in dict.fromkeys(found))
    return Archives(next(uri for uri, name in found if name == release), sources, settings)


def pip_settings() -> dict[str, str]:
    """Return pip's settings here, from its files and the environment, as variables; and those of proxies."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.lower() in {"http_proxy", "https_proxy", "no_proxy"} or name in {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    }
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2].replace("-", "_").upper()
        variables[f"PIP_{key}"] = value.strip().strip("'\"")
    return variables


def architecture() -> str:
    """Name this machine's architecture as images do."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def files(variables: dict[str, str]) -> dict[str, Path]:
    """Return the variables that name a file or folder of this machine."""
    return {name: Path(value) for name, value in variables.items() if value.startswith("/") and Path(value).exists()}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
