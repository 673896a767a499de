"""The archive: equal for equal files, whatever was done to them before."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

from tools.image import oci


def _fill(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
    (root / "link").symlink_to("a/one")
    return root


def test_equal_files_make_equal_layers_whenever_and_by_whomever_they_were_made(tmp_path: Path) -> None:
    names = ["a/one", "b.sh", "a/two"]
    first, second = _fill(tmp_path / "1", names), _fill(tmp_path / "2", names[::-1])
    os.utime(second / "a/one", (1, 1))
    assert oci.layer("x", first) == oci.layer("x", second)
    (second / "b.sh").chmod(0o644)
    assert oci.layer("x", first).digest != oci.layer("x", second).digest


def test_a_layer_belongs_to_root_and_keeps_links_and_modes(tmp_path: Path) -> None:
    import gzip

    content = gzip.decompress(oci.layer("x", _fill(tmp_path, ["a/one", "b.sh"])).blob)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert list(members) == ["a", "a/one", "b.sh", "link"]
    assert {(member.uid, member.gid, member.uname) for member in members.values()} == {(0, 0, "")}
    assert members["b.sh"].mode == 0o755
    assert members["link"].linkname == "a/one"


def test_every_blob_of_the_archive_is_what_its_digest_says(tmp_path: Path) -> None:
    import hashlib

    layers = [oci.layer(name, _fill(tmp_path / name, [name])) for name in ("one", "two")]
    content, digest = oci.archive(
        layers, {"User": "65532"}, architecture="amd64", created="2026-01-01T00:00:00Z", reference="docker.io/x/y:1"
    )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    blobs = {name: blob for name, blob in files.items() if name.startswith("blobs/")}
    assert all(hashlib.sha256(blob).hexdigest() == name.rpartition("/")[2] for name, blob in blobs.items())
    manifest = json.loads(blobs[f"blobs/{digest.replace(':', '/')}"])
    config = json.loads(blobs[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in layers]
    assert [part["digest"] for part in manifest["layers"]] == [layer.digest for layer in layers]
    assert len(blobs) == 4
