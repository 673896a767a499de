"""The image's archive, unpacked as a container's runtime does, and commands in it as its user."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# What a Pod of the restricted profile with readOnlyRootFilesystem has: nothing can be written but /tmp.
_SCRIPT = """
set -eu
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for device in null urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" --groups="${user#*:}" "$root" "$@"
"""


class Unpacked:
    def __init__(self, archive: Path, root: Path) -> None:
        """root: folder for the file system, all layers on one another."""
        self.root = root
        root.chmod(0o755)  # as the root of a container has it; a folder of tests is closed to its user
        with tarfile.open(archive) as tar:
            files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
            self.files = {name: content.read() for name, content in files.items() if content}
        self.index = json.loads(self.files["index.json"])
        self.manifest = json.loads(self.blob(self.index["manifests"][0]["digest"]))
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]))
        for layer in self.manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(self.blob(layer["digest"])))) as tar:
                tar.extractall(root, filter="fully_trusted")  # the modes and links are what is tested
        for name in ("proc", "dev"):
            (root / name).mkdir(exist_ok=True)
        for name in ("null", "urandom"):
            (root / "dev" / name).touch()

    def blob(self, digest: str) -> bytes:
        return self.files[f"blobs/{digest.replace(':', '/')}"]

    def sbom(self) -> dict[str, Any]:
        return json.loads((self.root / "usr/share/kube-cache/sbom.cdx.json").read_text())

    def run(self, *command: str, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's user, with its environment, on a read-only file system."""
        return subprocess.run(
            self._words(command, environment), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    @contextmanager
    def running(self, *command: str, **environment: str) -> Iterator[IO[str]]:
        """Run a command as `run` does, and give what it writes; kill it at the end."""
        words = self._words(command, environment)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout
            try:
                yield process.stdout
            finally:
                # The kernel forgets --kill-child where a process takes another user. This one is the first of its PID
                # namespace: with it all go.
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                process.kill()

    def _words(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        variables = dict(word.split("=", 1) for word in self.config["config"]["Env"]) | dict(environment)
        outside = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _SCRIPT, "sh"]
        inside = ["/usr/bin/python3", "-c", _AS_IN_A_CONTAINER, json.dumps(variables), *command]
        return [*outside, str(self.root), self.config["config"]["User"], *inside]


# A runtime starts a command with the image's environment alone; in the image nothing but Python can do that.
_AS_IN_A_CONTAINER = """
import json, os, sys
os.execvpe(sys.argv[2], sys.argv[2:], json.loads(sys.argv[1]))
"""
