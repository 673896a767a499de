"""Which mounts of the cache a Pod may be released with, and that the message says what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kube_cache.dataset.uri import DatasetUri
from kube_cache.kube.mounts import Verdict, judge
from kube_cache.store.layout import Layout
from tests.kube.mount_cases import (
    CURRENT_BY_HAND,
    DATASETS,
    NOT_OF_THE_CACHE,
    OWN_LINK,
    ROOT,
    SNAPSHOTS,
    TOKENS,
    UNSAFE,
    pod,
    whole,
)


def verdict(item: dict[str, Any], root: str = ROOT) -> Verdict:
    return judge(item, root, DATASETS)


@pytest.mark.parametrize("item", OWN_LINK)
def test_a_mount_of_the_pods_own_link_is_right(item: dict[str, Any]) -> None:
    assert verdict(item) == Verdict()


@pytest.mark.parametrize("item", CURRENT_BY_HAND)
def test_a_mount_of_current_by_hand_is_allowed_and_noticed(item: dict[str, Any]) -> None:
    assert verdict(item) == Verdict(mounts_current=True)


@pytest.mark.parametrize("item", NOT_OF_THE_CACHE)
def test_a_pod_that_does_not_mount_the_cache_is_released_as_ever(item: dict[str, Any]) -> None:
    assert verdict(item) == Verdict()


@pytest.mark.parametrize(("item", "reason"), UNSAFE)
def test_every_other_mount_of_the_cache_is_refused(item: dict[str, Any], reason: str) -> None:
    assert reason in verdict(item).unsafe


@pytest.mark.parametrize("kind", ["DirectoryOrCreate", "FileOrCreate"])
def test_a_volume_that_makes_a_folder_in_the_cache_is_refused_even_if_nothing_mounts_it(kind: str) -> None:
    item = pod(f"{SNAPSHOTS}/pods", kind)
    item["spec"]["containers"][0]["volumeMounts"] = []
    assert f"volume 'cache' has type {kind}" in verdict(item).unsafe


def test_one_wrong_mount_among_right_ones_is_found() -> None:
    item = pod()
    item["spec"]["initContainers"] = whole(ROOT)["spec"]["containers"]
    assert "init container 'train' mounts volume 'cache'" in verdict(item).unsafe


def test_the_message_names_container_volume_reason_and_what_to_write() -> None:
    assert verdict(whole(TOKENS, readOnly=None)).unsafe == (
        "container 'train' mounts volume 'cache', which is '/var/lib/kube-cache/datasets/gs/corpus/@current' of the"
        " cache and not read-only there, so that the container could change it; create the Pod again with"
        " volumes: [{name: cache, hostPath: {path: /var/lib/kube-cache/snapshots, type: Directory}}]"
        " env: [{name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]"
        ' volumeMounts: [{name: cache, mountPath: /weights, readOnly: true, subPathExpr: "pods/$(POD_UID)/1"}]'
        " (/0 is the first dataset, /1 the next)"
    )


def test_the_root_of_the_settings_is_judged_and_no_other() -> None:
    elsewhere = pod("/mnt/k8s-disks/0/cache/snapshots")
    assert verdict(elsewhere, "/mnt/k8s-disks/0/cache/") == Verdict()
    assert verdict(whole("/mnt/k8s-disks/0/cache", readOnly=None), "/mnt/k8s-disks/0/cache/").unsafe
    assert verdict(whole(ROOT, readOnly=None), "/mnt/k8s-disks/0/cache/") == Verdict()


def test_an_annotation_that_cannot_be_understood_is_not_this_modules_business() -> None:
    assert judge(pod(subPathExpr="pods/$(POD_UID)/7"), ROOT, "s3:/models") == Verdict()


@pytest.mark.parametrize("uri", ["s3://models/gpt", "s3://models/gpt/", "gs://corpus", "s3://models/a b/c"])
def test_current_is_where_the_store_keeps_it(uri: str) -> None:
    folder = ROOT / Layout(Path(ROOT)).dataset(DatasetUri.parse(uri))
    assert judge(whole(str(folder / "@current")), ROOT, uri) == Verdict(mounts_current=True)
