"""Our condition on a Pod, as the API server has it: the only one that we write, and never the last word by mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_cache import names
from kube_cache.contracts.common import PodRef, Warming
from kube_cache.errors import PodGone
from kube_cache.kube import conditions
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.pods import ref
from kube_cache.kube.warming import warming_mark
from tests.kube.fakes import RELEASED_TO, URI, release
from tools.stack.pods import Pods, condition
from tools.stack.waiting import true as until

WARMING = Warming("gpu-1", "disk", ["d"], 100)
MARK = warming_mark(WARMING)
LAGS = "the API server's cache, which may lag behind the last write, has it"


def test_our_condition_leaves_the_schedulers_alone(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    conditions.set_condition(kube_client, ref(pod), ready=False, reason="Warming", message="37 %")
    assert condition(kube_pods.get("one"))["message"] == "37 %"
    kinds = {item["type"]: item for item in kube_pods.get("one")["status"]["conditions"]}
    assert kinds["PodScheduled"]["reason"] == "SchedulingGated"


def annotation(pods: Pods, name: str) -> str:
    return str(pods.get(name)["metadata"]["annotations"][names.STATUS_ANNOTATION])


def test_describe_has_the_words_of_the_condition(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = ref(kube_pods.create_gated("one", URI))
    conditions.set_condition(kube_client, pod, ready=False, reason="Warming", message="37 %", warming=WARMING)
    assert annotation(kube_pods, "one") == "Warming: 37 %"
    until(lambda: conditions.set_progress(kube_client, pod, MARK, message="38 %", seen=None), LAGS)
    assert annotation(kube_pods, "one") == "Warming: 38 %"
    conditions.set_condition(kube_client, pod, ready=True, reason="Done", message="there")
    assert annotation(kube_pods, "one") == "Done: there"


def test_words_and_condition_are_one_write(kube_client: KubeClient, kube_pods: Pods) -> None:
    before = kube_pods.create_gated("one", URI)
    conditions.set_condition(kube_client, ref(before), ready=False, reason="Warming", message="37 %", seen=before)
    first = kube_pods.get("one")["metadata"]["resourceVersion"]
    conditions.set_condition(kube_client, ref(before), ready=False, reason="Warming", message="37 %")
    assert kube_pods.get("one")["metadata"]["resourceVersion"] == first  # equal words are no write at all


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        pytest.param("x" * 60, 1, id="short"),
        pytest.param("word " * 60, 4, id="long"),
        pytest.param("s3://bucket/" + "key-" * 30 + " is not there", 3, id="a long name stays whole"),
        pytest.param("first\nsecond", 2, id="lines stay lines"),
    ],
)
def test_describe_cuts_no_line(message: str, lines: int) -> None:
    text = conditions.status_text("Warming", message)
    assert text.count("\n") == lines - 1
    assert text.split() == f"Warming: {message}".split()
    assert all(len(line) <= 100 or " " not in line for line in text.split("\n"))


def test_the_time_of_the_condition_is_that_of_its_last_change(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = ref(kube_pods.create_gated("one", URI))
    conditions.set_condition(kube_client, pod, ready=False, reason="Placing", message="x")
    long_ago = "2020-01-01T00:00:00Z"
    ours = {"type": names.CONDITION, "lastTransitionTime": long_ago}
    kube_pods.api.request(
        "PATCH",
        pod_path(pod.namespace, pod.name, "status"),
        {"status": {"conditions": [ours]}},
        content_type="application/strategic-merge-patch+json",
    )
    until(
        lambda: (
            condition(kube_client.get_pod(pod.namespace, pod.name, allow_stale=True))["lastTransitionTime"] == long_ago
        ),
        "the API server's cache has the time",
    )
    conditions.set_condition(kube_client, pod, ready=False, reason="Warming", message="y", warming=WARMING)
    conditions.set_progress(kube_client, pod, MARK, message="z", seen=None)
    assert condition(kube_pods.get("one"))["lastTransitionTime"] == long_ago
    conditions.set_condition(kube_client, pod, ready=True, reason="Done", message="there")
    assert condition(kube_pods.get("one"))["lastTransitionTime"] > long_ago


def test_an_action_that_was_acted_upon_can_be_written_again(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = ref(kube_pods.create_gated("one", URI))
    kube_pods.annotate("one", action="retry", priority="3")
    conditions.clear_action(kube_client, pod, "cancel")
    assert kube_pods.get("one")["metadata"]["annotations"][names.ACTION_ANNOTATION] == "retry"
    for _ in range(2):
        conditions.clear_action(kube_client, pod, "retry")
    assert names.ACTION_ANNOTATION not in kube_pods.get("one")["metadata"]["annotations"]
    assert kube_pods.get("one")["metadata"]["annotations"][names.PRIORITY_ANNOTATION] == "3"


def waiting(client: KubeClient, pods: Pods) -> PodRef:
    """Create a Pod that waits for a download."""
    pod = ref(pods.create_gated("one", URI))
    conditions.set_condition(client, pod, ready=False, reason="Warming", message="fetching", warming=WARMING)
    return pod


def test_progress_never_overwrites_the_last_word(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = waiting(kube_client, kube_pods)
    until(lambda: conditions.set_progress(kube_client, pod, MARK, message="99 %", seen=None), LAGS)
    seen = kube_pods.get("one")
    release(kube_client, pod, RELEASED_TO)
    assert not conditions.set_progress(kube_client, pod, MARK, message="100 %", seen=seen)
    conditions.set_condition(kube_client, pod, ready=True, reason="Done", message="there")
    assert not conditions.set_progress(kube_client, pod, MARK, message="100 %", seen=seen)
    assert condition(kube_pods.get("one"))["message"] == "there"


def test_any_other_word_ends_the_progress(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = waiting(kube_client, kube_pods)
    seen = kube_pods.get("one")
    assert seen["metadata"]["annotations"][names.WARMING_ANNOTATION] == MARK
    conditions.set_condition(kube_client, pod, ready=False, reason="Paused", message="by its owner")
    assert names.WARMING_ANNOTATION not in kube_pods.get("one")["metadata"]["annotations"]
    assert not conditions.set_progress(kube_client, pod, MARK, message="50 %", seen=seen)
    assert condition(kube_pods.get("one"))["message"] == "by its owner"


def test_progress_of_an_older_download_is_not_written(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = waiting(kube_client, kube_pods)
    assert not conditions.set_progress(
        kube_client, pod, warming_mark(replace(WARMING, node="gpu-2")), message="x", seen=None
    )


def test_progress_goes_on_after_somebody_changed_the_pod(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = waiting(kube_client, kube_pods)
    seen = kube_pods.get("one")
    kube_pods.annotate("one", priority="3")
    until(lambda: conditions.set_progress(kube_client, pod, MARK, message="50 %", seen=seen), LAGS)
    assert condition(kube_pods.get("one"))["message"] == "50 %"


def test_a_pod_that_is_gone_or_another_is_not_reported_to(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    other = replace(ref(pod), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(PodGone):
        conditions.set_condition(kube_client, other, ready=False, reason="Warming", message="x")
    with pytest.raises(PodGone):
        conditions.set_condition(
            kube_client, replace(ref(pod), name="nobody"), ready=False, reason="Warming", message="x"
        )
