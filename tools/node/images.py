"""Container images without a registry: an OCI archive from files of this machine, as `ctr images import` takes it.

They stand in, under the names that the manifests have, for images that a cluster would pull: the pause container, a
user's image, Temporal. Each holds a static binary and what it needs, so that the archive is ready in a moment.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.image import oci
from tools.image.machine import architecture

PAUSE = "registry.k8s.io/pause:3.10.1"
# A shell as process 1 hears SIGTERM only if it says so.
_PAUSE = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]
_CREATED = "1980-01-01T00:00:00Z"
_FOLDERS = ("tmp", "etc", "dev", "proc", "sys", "root", "bin")
_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


@dataclass(frozen=True)
class Image:
    name: str
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    """Programs by their path in the image."""

    def write(self, path: Path) -> Path:
        """Write the archive. Raises FileNotFoundError where this machine lacks a program."""
        settings = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        }
        content, _ = oci.archive(
            [self._layer()],
            settings,
            architecture=architecture(),
            created=_CREATED,
            reference=_qualified(self.name),
        )
        path.write_bytes(content)
        return path

    def _layer(self) -> oci.Layer:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as layer:
            for folder in _FOLDERS:
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                layer.addfile(entry)
            _add(layer, "etc/passwd", _USERS.encode())
            for inside, source in self.files.items():
                _add(layer, inside.lstrip("/"), source.read_bytes(), 0o755)
            if "/bin/busybox" in self.files:
                for applet in _applets(self.files["/bin/busybox"]):
                    entry = tarfile.TarInfo(f"bin/{applet}")
                    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
                    layer.addfile(entry)
        return oci.packed("files", out.getvalue(), sum(path.stat().st_size for path in self.files.values()), level=0)


def busybox(name: str, entrypoint: Sequence[str] = (), command: Sequence[str] = ("/bin/sh",)) -> Image:
    """Return an image with a shell and the usual tools, under any name."""
    found = shutil.which("busybox")
    if found is None:
        raise FileNotFoundError("busybox is not installed: apt-get install busybox-static")
    return Image(name, entrypoint, command, {"/bin/busybox": Path(found)})


def pause(name: str = PAUSE) -> Image:
    return busybox(name, _PAUSE, ())


def temporal(binary: Path, name: str) -> Image:
    """Return the image of Temporal's command line, which holds the server."""
    return Image(name, ["/usr/local/bin/temporal"], (), {"/usr/local/bin/temporal": binary})


def _qualified(name: str) -> str:
    """Return the name with its registry, as containerd keeps images."""
    first, _, rest = name.partition("/")
    if not rest:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def _applets(binary: Path) -> list[str]:
    listed = subprocess.run([str(binary), "--list"], check=True, capture_output=True, text=True).stdout.split()
    return [name for name in listed if name != "busybox"]


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
