"""Verdict on a Pod's mounts of the cache: a Pod is released only where a missing snapshot is an error, never a folder.

Two forms are right (docs/design/mounts.md). The Pod's own link: hostPath `<root>/snapshots`, `type: Directory`,
read-only, `subPathExpr: pods/$(POD_UID)/<n>`. A dataset's `@current`: whole, read-only, `type: Directory`. Every other
mount of the cache shows other Pods' data, lets a container change it, or starts a container on an empty folder.

Judges the text of the Pod. A link on the node that leads into the cache by another path, and a persistent volume, are
not seen.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from kube_cache.dataset.uri import DatasetUri, parse_datasets
from kube_cache.errors import InvalidRequest
from kube_cache.kube.client import Json
from kube_cache.names import CURRENT_LINK, DATASET_ANNOTATION

DEFAULT_ROOT: Final = "/var/lib/kube-cache"

_UID_VARIABLE: Final = "POD_UID"
_UID_FIELD: Final = "metadata.uid"
_OWN_LINK: Final = re.compile(r"pods/\$\(POD_UID\)/(0|[1-9][0-9]*)")
_CONTAINERS: Final = (
    ("containers", "container"),
    ("initContainers", "init container"),
    ("ephemeralContainers", "ephemeral container"),
)
# Types with which the kubelet makes what is missing.
_MAKING_TYPES: Final = ("DirectoryOrCreate", "FileOrCreate")


class Verdict(NamedTuple):
    """Verdict on all mounts of a Pod."""

    unsafe: str = ""
    """Why the Pod must not be released, with the remedy; empty where nothing forbids a release."""
    mounts_current: bool = False
    """A container mounts a dataset's `@current`."""


class _Unsafe(Exception):
    """Reason against one mount, in a clause that follows the name of its volume."""


def judge(pod: Json, cache_root: str, dataset: str) -> Verdict:
    """Judge every mount of the cache in every container. dataset: the annotation, as the user wrote it."""
    spec = pod["spec"]
    host_paths = {volume["name"]: volume["hostPath"] for volume in spec.get("volumes") or [] if volume.get("hostPath")}
    if not host_paths:
        return Verdict()
    rules = _Rules(_normal(cache_root), _datasets(dataset))
    mounts_current = False
    for kind, container, mount in _mounts(spec):
        if (host_path := host_paths.get(mount["name"])) is None:
            continue
        try:
            mounts_current |= rules.shows_current(container, mount, host_path)
        except _Unsafe as error:
            mounted = f"{kind} {container['name']!r} mounts volume {mount['name']!r}"
            remedy = rules.remedy(mount["name"], host_path, mount["mountPath"])
            return Verdict(f"{mounted}, which {error}; {remedy}", mounts_current)
    for name, host_path in host_paths.items():
        if reason := rules.what_it_makes(host_path):
            return Verdict(f"volume {name!r} {reason}; {rules.remedy(name, host_path)}", mounts_current)
    return Verdict(mounts_current=mounts_current)


def mounts_cache(pod: Json, cache_root: str) -> bool:
    """Whether the Pod has a volume that is a folder of the cache; `judge` says whether it is safe."""
    root = _normal(cache_root)
    paths = (_normal(one["hostPath"]["path"]) for one in pod["spec"].get("volumes") or [] if one.get("hostPath"))
    return any(path == root or path.startswith(f"{root}/") for path in paths)


class _Rules:
    """Rules for one cache root and the datasets of one Pod."""

    def __init__(self, root: str, datasets: tuple[DatasetUri, ...] | None) -> None:
        """datasets: None if the annotation cannot be understood, which is told by others."""
        self._root = root
        self._datasets = datasets
        self._current = {self._current_path(uri): number for number, uri in enumerate(datasets or ())}

    def what_it_makes(self, host_path: Json) -> str:
        """Why a volume is unsafe even if nothing mounts it; empty if it is not."""
        kind = host_path.get("type") or ""
        if kind in _MAKING_TYPES and self._holds(_normal(host_path["path"])):
            return f"has type {kind}, with which the kubelet makes a missing folder in the cache, which is then empty"
        return ""

    def shows_current(self, container: Json, mount: Json, host_path: Json) -> bool:
        """Whether the mount is right and shows an `@current`. Raises _Unsafe."""
        path = _normal(host_path["path"])
        sub_path, expression = mount.get("subPath") or "", mount.get("subPathExpr") or ""
        shown = _normal(f"{path}/{sub_path or _literal_start(expression)}")
        if self._is_above(shown):
            self._check_parent(mount, shown, expression)
            return False
        if not self._holds(shown):
            return False
        if not self._holds(path):
            raise _Unsafe(f"reaches {shown!r} of the cache by a sub-path of {path!r}")
        if mount.get("readOnly") is not True:
            raise _Unsafe(f"is {path!r} of the cache and not read-only there, so that the container could change it")
        if path == f"{self._root}/snapshots":
            self._check_own_link(container, sub_path, expression)
            self._check_type(host_path)
            return False
        if posixpath.basename(path) != CURRENT_LINK or not path.startswith(f"{self._root}/datasets/"):
            raise _Unsafe(f"is {path!r}, a folder of the cache that no Pod may mount")
        if sub_path or expression:
            raise _Unsafe(f"has a sub-path in {CURRENT_LINK}: where that is missing, the kubelet makes an empty folder")
        if self._datasets is not None and path not in self._current:
            raise _Unsafe(f"is {path!r}, of a dataset that the annotation {DATASET_ANNOTATION} does not name")
        self._check_type(host_path)
        return True

    def remedy(self, volume: str, host_path: Json, mount_path: str = "…") -> str:
        """Lines to write instead, for the dataset that the mount means if its path tells."""
        number = self._current.get(_normal(host_path["path"]), 0)
        expression = f'"pods/$({_UID_VARIABLE})/{number}"'
        mount = f"name: {volume}, mountPath: {mount_path}, readOnly: true, subPathExpr: {expression}"
        field = f"{{fieldRef: {{fieldPath: {_UID_FIELD}}}}}"
        several = " (/0 is the first dataset, /1 the next)" if len(self._datasets or ()) > 1 else ""
        return (
            "create the Pod again with"
            f" volumes: [{{name: {volume}, hostPath: {{path: {self._root}/snapshots, type: Directory}}}}]"
            f" env: [{{name: {_UID_VARIABLE}, valueFrom: {field}}}] volumeMounts: [{{{mount}}}]{several}"
        )

    def _check_parent(self, mount: Json, path: str, expression: str) -> None:
        """Check the mount of a folder that contains the cache.

        `readOnly` alone does not cover file systems mounted below, and the cache is one: only a recursive one does.
        """
        if expression:
            raise _Unsafe(f"may reach the cache in {path!r} by its subPathExpr")
        if mount.get("readOnly") is not True or mount.get("recursiveReadOnly") != "Enabled":
            raise _Unsafe(
                f"is {path!r}, with the whole cache in it, writable: mount it with readOnly: true and"
                " recursiveReadOnly: Enabled, or not at all"
            )

    def _check_own_link(self, container: Json, sub_path: str, expression: str) -> None:
        if sub_path:
            raise _Unsafe("has a subPath: where its snapshot is missing, the kubelet makes an empty folder")
        if not expression:
            raise _Unsafe("shows the snapshots of all Pods: it has no subPathExpr")
        written = _OWN_LINK.fullmatch(expression)
        if written is None:
            raise _Unsafe(f"has subPathExpr {expression!r}, which is not pods/$({_UID_VARIABLE})/<number>")
        if self._datasets is not None and int(written[1]) >= len(self._datasets):
            raise _Unsafe(
                f"has subPathExpr {expression!r}, but the Pod names {len(self._datasets)} dataset(s), counted from 0"
            )
        if _source_of(container, _UID_VARIABLE) != _UID_FIELD:
            raise _Unsafe(f"needs the variable {_UID_VARIABLE}, which the container does not take from {_UID_FIELD}")

    def _check_type(self, host_path: Json) -> None:
        if host_path.get("type") != "Directory":
            raise _Unsafe(f"has type {host_path.get('type') or ''!r}, with which a missing folder is no error")

    def _holds(self, path: str) -> bool:
        return path == self._root or path.startswith(f"{self._root}/")

    def _is_above(self, path: str) -> bool:
        return path == "/" or self._root.startswith(f"{path}/")

    def _current_path(self, uri: DatasetUri) -> str:
        return _normal(f"{self._root}/datasets/{uri.scheme}/{uri.bucket}/{uri.prefix}/{CURRENT_LINK}")


def _mounts(spec: Mapping[str, Any]) -> Iterator[tuple[str, Json, Json]]:
    """Yield (kind of container, container, mount)."""
    for key, kind in _CONTAINERS:
        for container in spec.get(key) or []:
            for mount in container.get("volumeMounts") or []:
                yield kind, container, mount


def _normal(path: str) -> str:
    """Absolute path without empty, `.` and `..` segments."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _literal_start(expression: str) -> str:
    """Folders of a subPathExpr before the first one that holds a variable."""
    return posixpath.dirname(expression.split("$(", maxsplit=1)[0]) if "$(" in expression else expression


def _source_of(container: Json, variable: str) -> str:
    """Field that the container takes the variable from; empty if from none. Of several entries the last one counts."""
    source = ""
    for entry in container.get("env") or []:
        if entry["name"] == variable:
            source = ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath") or ""
    return source


def _datasets(annotation: str) -> tuple[DatasetUri, ...] | None:
    try:
        return parse_datasets(annotation)
    except InvalidRequest:
        return None
