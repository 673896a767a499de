"""An image as an OCI layout in one tar, equal for equal layers, as `ctr images import` and `docker load` take it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_LAYER_TIME: Final = 315532800
"""1980-01-01, as deploy/image/common.sh gives it to every file."""
_LEVEL: Final = 6
"""Of gzip; 9 takes three times as long for 1 % less."""


@dataclass(frozen=True)
class Layer:
    name: str
    blob: bytes
    """Compressed."""
    diff_id: str
    unpacked: int
    """Bytes of all files."""

    @property
    def digest(self) -> str:
        return _digest(self.blob)


def layer(name: str, root: Path) -> Layer:
    """Pack a folder: sorted, owned by root, with the layer's time."""
    raw = io.BytesIO()
    unpacked = 0
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            entry = tar.gettarinfo(path, path.relative_to(root).as_posix())
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = _LAYER_TIME
            if entry.islnk():  # each name of a file has its own copy: which of them is the first would be chance
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            if entry.isreg():
                unpacked += entry.size
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return packed(name, raw.getvalue(), unpacked)


def packed(name: str, content: bytes, unpacked: int, level: int = _LEVEL) -> Layer:
    """Return the layer of a tar. unpacked: bytes of its files. level: of gzip; 0 for what is read once."""
    return Layer(name, gzip.compress(content, level, mtime=0), _digest(content), unpacked)


def archive(
    layers: Iterable[Layer], settings: Mapping[str, Any], *, architecture: str, created: str, reference: str
) -> tuple[bytes, str]:
    """Return the tar and the digest of the image's manifest. settings: the `config` of an OCI image."""
    layers = list(layers)
    blobs = {layer.digest: layer.blob for layer in layers}

    def add(content: bytes, kind: str, **more: Any) -> dict[str, Any]:
        digest = _digest(content)
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(content), **more}

    config = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": dict(settings),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": layer.name} for layer in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(_json(config), "config.v1+json"),
        "layers": [add(layer.blob, "layer.v1.tar+gzip") for layer in layers],
    }
    described = add(
        _json(manifest),
        "manifest.v1+json",
        annotations={
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        },
        platform={"architecture": architecture, "os": "linux"},
    )
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [described],
            }
        ),
        # What `docker load` reads; `ctr` prefers index.json.
        "manifest.json": _json(
            [
                {
                    "Config": _blob(manifest["config"]["digest"]),  # type: ignore[index]
                    "RepoTags": [reference],
                    "Layers": [_blob(layer.digest) for layer in layers],
                }
            ]
        ),
        **{_blob(digest): content for digest, content in sorted(blobs.items())},
    }
    return _tar(files), described["digest"]


def _tar(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, _LAYER_TIME
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
