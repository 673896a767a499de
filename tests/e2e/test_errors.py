"""You can see why: each error is named on the Pod, the gate stays, and `retry` goes on when the cause is mended."""

from __future__ import annotations

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, condition_says, event_reasons, released, still_gated, temporal, workflow_id
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true


def held_by(pods: Pods, name: str, error: str) -> str:
    """Wait until the Pod says that this error holds it; the message."""
    message = condition_says(pods, name, "AwaitingOperator", error)
    true(lambda: error in event_reasons(pods, name), f"an Event says {error}")
    still_gated(pods, name)
    return message


def test_a_missing_prefix_then_uploaded_then_retry_by_the_temporal_cli(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    made = pods.create_gated("one", bucket.uri("gpt"))
    assert bucket.uri("gpt") in held_by(pods, "one", "DatasetNotFound")
    content = bucket.fill("gpt", [MIB])
    temporal(stack, "workflow", "signal", "--workflow-id", workflow_id(made), "--name", "retry")
    released(stack, pods, "one", bucket.uri("gpt"), content)


def test_access_denied_then_granted_then_retry_by_annotation(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [MIB])
    stack.s3.revoke(bucket.name)
    pods.create_gated("one", bucket.uri("gpt"))
    assert "s3:GetObject" in held_by(pods, "one", "AccessDenied")
    stack.s3.grant(bucket.name)
    pods.annotate("one", action="retry")
    released(stack, pods, "one", bucket.uri("gpt"), content)


@pytest.mark.parametrize("written", ["not a uri", "http://models/gpt", "s3://", "s3://bucket/../up"])
def test_an_annotation_that_is_no_dataset_then_corrected(
    stack: Stack, exempt_pods: Pods, bucket: Bucket, written: str
) -> None:
    content = bucket.fill("gpt", [5])
    exempt_pods.create_gated("one", written)
    held_by(exempt_pods, "one", "InvalidRequest")
    _write_dataset(exempt_pods, bucket.uri("gpt"))
    released(stack, exempt_pods, "one", bucket.uri("gpt"), content)


def test_an_empty_annotation_then_written(stack: Stack, exempt_pods: Pods, bucket: Bucket) -> None:
    """Without a dataset there is nothing to be wrong: the Pod waits for one, as when the annotation is removed."""
    content = bucket.fill("gpt", [5])
    exempt_pods.create_gated("one", "")
    condition_says(exempt_pods, "one", "DatasetRemoved", "missing or empty")
    still_gated(exempt_pods, "one")
    _write_dataset(exempt_pods, bucket.uri("gpt"))
    released(stack, exempt_pods, "one", bucket.uri("gpt"), content)


def _write_dataset(pods: Pods, uri: str) -> None:
    pods.api.request(
        "PATCH",
        f"/api/v1/namespaces/{pods.namespace}/pods/one",
        {"metadata": {"annotations": {"x-openai/required-dataset": uri}}},
        content_type="application/merge-patch+json",
    )


def test_a_key_that_would_leave_the_directory(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    bucket.fill("gpt", {"ok": 5})
    # `..` and empty segments never get past this server's own door; a control character does, and is of the same
    # family.
    bucket.put("gpt/a\tb", b"x")
    pods.create_gated("one", bucket.uri("gpt"))
    assert r"a\tb" in held_by(pods, "one", "UnsafeKey")


def test_wrong_bytes_are_named_and_never_released(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", {"w": 3 * MIB})
    stack.s3.damage(bucket.name, "gpt/w", offset=MIB)
    pods.create_gated("one", bucket.uri("gpt"))
    message = held_by(pods, "one", "ChecksumMismatch")
    assert "gpt/w" in message
    bucket.put("gpt/w", content["w"])
    pods.annotate("one", action="retry")
    released(stack, pods, "one", bucket.uri("gpt"), content)


def test_an_object_replaced_during_the_download_is_resolved_afresh(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    """A range that is requested after the change meets the new ETag.

    If all ranges had been requested by then, the old version would arrive whole, and rightly be released. So no more
    than two of its ranges are let through before.
    """
    bucket.fill("gpt", {"w": 40 * MIB})
    with stack.s3_proxy.only(gets=2):
        pods.create_gated("one", bucket.uri("gpt"))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > MIB, "the download runs")
        content = bucket.fill("gpt", {"w": 40 * MIB}, seed=2)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    assert "SourceChanged" in event_reasons(pods, "one")


def test_a_store_that_is_away_for_a_while_is_waited_for(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [MIB])
    stack.s3.stop()
    pods.create_gated("one", bucket.uri("gpt"))
    waiting = pods.wait(
        "one", lambda pod: "SourceUnavailable" in kubernetes.condition(pod).get("message", ""), "says what is away"
    )
    assert kubernetes.condition(waiting)["reason"] == "Resolving"
    still_gated(pods, "one")
    stack.s3.start()
    released(stack, pods, "one", bucket.uri("gpt"), content)


def test_a_store_that_goes_away_in_mid_download(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    """20 s, as the promise has it: longer than the engine's own patience, so the activity's retry is what resumes."""
    import time

    content = bucket.fill("gpt", [48 * MIB])
    with stack.s3_proxy.limited(16 * MIB, at_most=40 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > 8 * MIB, "the download runs")
        stack.s3.stop()
        stack.s3_proxy.drop_connections()
        stopped = time.monotonic()
        pods.wait(
            "one", lambda pod: "SourceUnavailable" in kubernetes.condition(pod).get("message", ""), "says what is away"
        )
        true(lambda: time.monotonic() - stopped > 20, "20 s are over")
        still_gated(pods, "one")
        stack.s3.start()
    released(stack, pods, "one", bucket.uri("gpt"), content)


def test_an_action_that_was_acted_upon_is_cleared_and_can_be_written_again(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    pods.create_gated("one", bucket.uri("gpt"))
    held_by(pods, "one", "DatasetNotFound")
    for _ in range(2):
        pods.annotate("one", action="retry")
        pods.wait(
            "one", lambda pod: names.ACTION_ANNOTATION not in pod["metadata"]["annotations"], "has no action any more"
        )
        held_by(pods, "one", "DatasetNotFound")
    content = bucket.fill("gpt", [5])
    pods.annotate("one", action="retry")
    released(stack, pods, "one", bucket.uri("gpt"), content)
