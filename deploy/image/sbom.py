"""Writes the software bill of materials of the image, CycloneDX 1.6: `sbom.py REPORT LAYER…`, to standard output.

Reads what the layers themselves say: a file of each Debian package, and the metadata of each Python distribution. The
hash of a distribution is that of its wheel, in pip's report of the installation, which pip compared with the lock.
Deliberately without a time and a serial number, so that equal layers have equal lists; the image's labels have both.
Crates inside Temporal's core, and what else wheels have linked in, are not listed: no wheel says what they are.
"""

from __future__ import annotations

import json
import re
import sys
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def debian(path: Path) -> dict[str, Any]:
    field = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    name, version, architecture = field["Package"], field["Version"], field["Architecture"]
    source, _, source_version = (field["Source"] or name).partition(" ")
    upstream = f"{source}@{source_version.strip('()')}" if source_version else source
    purl = (
        f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=debian-12&upstream={quote(upstream)}"
    )
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "description": field["Description"].splitlines()[0],
        "hashes": [{"alg": "SHA-256", "content": field["SHA256"]}],
        "purl": purl,
    }


def python(path: Path, hashes: dict[str, str]) -> dict[str, Any]:
    field = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    name, version = _normal(field["Name"]), field["Version"]
    purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
    component = {
        "type": "application" if name == "kube-cache" else "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "description": field["Summary"] or "",
        "purl": purl,
    }
    if expression := field["License-Expression"]:
        component["licenses"] = [{"expression": expression}]
    elif (text := field["License"]) and len(text) < 80 and "\n" not in text:
        component["licenses"] = [{"license": {"name": text}}]
    if name in hashes:
        component["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
    return component


def wheels(report: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each installed wheel."""
    return {
        _normal(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in report["install"]
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bill(layers: list[Path], hashes: dict[str, str]) -> dict[str, Any]:
    components = [debian(path) for layer in layers for path in sorted((layer / "var/lib/dpkg/status.d").glob("*"))] + [
        python(path, hashes)
        for layer in layers
        for path in sorted(layer.glob("usr/local/lib/python3.*/dist-packages/*.dist-info/METADATA"))
    ]
    product = next(part for part in components if part["name"] == "kube-cache")
    parts = sorted((part for part in components if part is not product), key=lambda part: part["bom-ref"])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": parts,
        "dependencies": [{"ref": product["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
    }


if __name__ == "__main__":
    report, *layers = map(Path, sys.argv[1:])
    json.dump(bill(layers, wheels(json.loads(report.read_text(encoding="utf-8")))), sys.stdout, indent=1)
    print()
