"""Pods are placed on nodes with an agent only, where the operator was told which these are."""

from __future__ import annotations

import pytest

from kube_cache.kube.cache_nodes import parse_selector, restrict


def test_a_selector_is_labels_between_commas() -> None:
    assert parse_selector("") == {}
    assert parse_selector(" a/b=c , d= ,") == {"a/b": "c", "d": ""}


@pytest.mark.parametrize("text", ["a", "=b", "a=b,c"])
def test_a_selector_that_is_none_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no label; write key=value"):
        parse_selector(text)


def test_a_pod_asks_for_the_labels_too_and_its_own_word_counts() -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"nodeSelector": {"disk": "small"}, "containers": []}}
    asked = restrict(pod, {"cache": "yes", "disk": "large"})
    assert asked["spec"]["nodeSelector"] == {"cache": "yes", "disk": "small"}
    assert pod["spec"]["nodeSelector"] == {"disk": "small"}, "the Pod itself is not changed"
    assert restrict({"spec": {}}, {"cache": "yes"})["spec"]["nodeSelector"] == {"cache": "yes"}
    assert restrict(pod, {}) is pod
