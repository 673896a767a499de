"""What a user writes is refused at `kubectl apply` exactly when the operator would refuse it, with how to write it."""

from __future__ import annotations

import pytest

from kube_cache import names
from kube_cache.contracts.common import PodView
from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import InvalidRequest
from tests.kube.admission import KINDS, Admission, admission, pod, workload
from tools.stack import Stack
from workflows.warm_pod import options

MANY = ",".join(f"s3://models/{number}" for number in range(257))
GOOD = [
    "s3://models/gpt-4-weights",
    "  S3://models/a ,gs://other/b/ ",
    "\ts3://models/x\r\n",
    "s3://models",
    "s3://models/",
    "s3://models/a b/ü#?%2F",
    "s3://models/a\u00a0",
    "s3://models/x:y@z",
    "s3://models/@currently",
    "s3://models/...",
    "gs://under_scored/x",
    "Gs://abc",
    "s3://a.b.c/x",
    "s3://1.2.3.4.5/x",
    "s3://" + "a" * 63 + "/x",
    "gs://" + "a" * 222 + "/x",
    "s3://models/a,gs://models/a",
    "s3://models/a,s3://models/ab",
    "s3://models/" + "x" * 255,
    "s3://models/" + "ü" * 127,
    "s3://models/" + "/".join(["x" * 250] * 4),
]
BAD = [
    "",
    " \n",
    "\u00a0",
    "s3://a-bucket/x,,",
    "s3://a-bucket/x,",
    ",s3://a-bucket/x",
    "s3://models/a, ,s3://models/b",
    "models/gpt",
    "s3://models/a,b",
    "http://models/a",
    "az://models/x",
    "s3:///a",
    "s3://",
    "s3:/models/a",
    "s3//models",
    "s 3://models/a",
    "\u00a0s3://models/a",
    "s3:// models/a",
    "s3://Models/a",
    "s3://ab/a",
    "s3://a..b/a",
    "gs://..x/a",
    "s3://-models/a",
    "s3://models-/a",
    "s3://mod_els/a",
    "s3://" + "a" * 64 + "/x",
    "gs://" + "a" * 223 + "/x",
    "s3://169.254.169.254/a",
    "s3://169.254.169.254",
    "s3://user@models/a",
    "s3://models:80/a",
    "s3://models/a\x00b",
    "s3://models/a\r\nHost: x",
    "s3://models/\x7f",
    "s3://models/\x85",
    "s3://models/a/../b",
    "s3://models/..",
    "s3://models/./b",
    "s3://models//b",
    "s3://models/a://b",
    "s3://models//",
    "s3://models/a//",
    "s3://models/@current/x",
    "s3://models/@current",
    "s3://models/" + "x" * 256,
    "s3://models/" + "ü" * 128,
    "s3://models/" + "x/" * 600,
    "s3://models/a,s3://models/a/",
    "S3://models/a,s3://models/a",
    "s3://models,s3://models/",
    MANY,
    "s3://models/" + "x" * 100_000,
]


@pytest.fixture(scope="module")
def api(kube: Stack) -> Admission:
    return admission(kube)


def test_a_dataset_is_refused_exactly_when_the_operator_would_refuse_it(api: Admission) -> None:
    for text in GOOD:
        assert parse_datasets(text)
        assert not api.refusal(pod(text)), text
    for text in BAD:
        with pytest.raises(InvalidRequest):
            parse_datasets(text)
        assert "x-openai/required-dataset" in api.refusal(pod(text)), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("models/gpt", "'models/gpt' has no known scheme; write it like s3://bucket/prefix", id="scheme"),
        pytest.param("s3://Models/a", "names no possible bucket; a name has 3 to 63 lower-case letters", id="bucket"),
        pytest.param("s3://models/a,b", "a comma separates datasets and cannot be part of one", id="comma"),
        pytest.param("s3://models/a,", "an empty dataset in 's3://models/a,'", id="comma at the end"),
        pytest.param("s3://models/../a", "write the key without it", id="two dots"),
        pytest.param("s3://models/a,s3://models/a", "'s3://models/a' is named twice; name it once", id="twice"),
        pytest.param(MANY, "more than 256 datasets", id="many"),
    ],
)
def test_the_refusal_says_how_to_write_a_dataset(api: Admission, text: str, words: str) -> None:
    assert words in api.refusal(pod(text))


OPTIONS = {
    "max_gate_time": (["", "30m", "1h30m", " 90s ", "1.5h", "100ms", "0s"], ["x", " ", "30", "-5m", "1h 30m", "٣m"]),
    "on_timeout": (["", "keep", "release"], ["maybe", "Keep", " keep"]),
    "priority": (["", " ", "0", "-100", "+100", " 007 "], ["x", "101", "-101", "1.5", "1_0", "٣", "9" * 30]),
    "verify": (["", "quick", "full"], ["hard"]),
    "require": (["", "checksum"], ["md5"]),
    "on_stuck": (["", "keep", "evict"], ["delete"]),
    "neighbours": (["", "allow", "forbid"], ["off", "Forbid"]),
}


@pytest.mark.parametrize("field", OPTIONS)
def test_an_option_is_refused_exactly_when_the_operator_would_refuse_it(api: Admission, field: str) -> None:
    key = f"{names.DOMAIN}/{field.replace('_', '-')}"
    good, bad = OPTIONS[field]
    for value in good:
        options.check(PodView(**{field: value}))
        assert not api.refusal(pod("s3://models/gpt", annotations={key: value})), value
    for value in bad:
        with pytest.raises(InvalidRequest):
            options.check(PodView(**{field: value}))
        words = api.refusal(pod("s3://models/gpt", annotations={key: value}))
        assert key in words, value
        assert "write" in words


@pytest.mark.parametrize(
    ("name", "size", "good"),
    [
        ("train", "2", True),
        ("a-1", "1000", True),
        ("a" * 63, "007", True),
        ("", "", True),
        ("train", "", False),
        ("", "2", False),
        ("train", "0", False),
        ("train", "1001", False),
        ("train", "two", False),
        ("Train", "2", False),
        ("-a", "2", False),
        ("a" * 64, "2", False),
    ],
)
def test_a_group_is_refused_exactly_when_the_operator_would_refuse_it(
    api: Admission, name: str, size: str, good: bool
) -> None:
    view = PodView(group=name, group_size=size)
    words = api.refusal(
        pod("s3://models/gpt", annotations={names.GROUP_ANNOTATION: name, names.GROUP_SIZE_ANNOTATION: size})
    )
    if good:
        options.check(view)
        assert not words
    else:
        with pytest.raises(InvalidRequest):
            options.check(view)
        assert names.GROUP_ANNOTATION in words


def test_an_action_that_nobody_knows_is_refused(api: Admission) -> None:
    for value in ["retry", "retry-2", "cancel", "pause", "resume-x"]:
        assert not api.refusal(pod("s3://models/gpt", annotations={names.ACTION_ANNOTATION: value}))
    for value in ["restart", "retry2", "Retry"]:
        words = api.refusal(pod("s3://models/gpt", annotations={names.ACTION_ANNOTATION: value}))
        assert f"'{value}' is no action; write retry, resume, cancel or pause" in words


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_refused_where_its_author_reads_it(api: Admission, kind: str) -> None:
    assert not api.refusal(workload(kind, pod("s3://models/gpt")))
    assert "'gpt' has no known scheme" in api.refusal(workload(kind, pod("gpt")))
    words = api.refusal(workload(kind, pod("s3://models/gpt", annotations={names.VERIFY_ANNOTATION: "hard"})))
    assert "write quick or full" in words


def test_an_object_that_says_it_already_can_be_changed_in_other_ways(kube: Stack, api: Admission) -> None:
    """The policies came after it."""
    kube.cluster.create_namespace("before-the-policies", exempt=True)
    item = workload("Deployment", pod("gpt"))
    item["metadata"]["namespace"] = "before-the-policies"
    item["spec"]["replicas"] = 0
    kube.api.create(item)
    kube.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "before-the-policies"}})
    try:
        labelled = {"metadata": {"labels": {"a": "b"}}}
        path = f"{kube.api.collection(item)}/one"
        merge = {"content_type": "application/merge-patch+json", "dryRun": "All"}
        kube.api.request("PATCH", path, labelled, **merge)
        other = {"spec": {"template": {"metadata": {"annotations": {names.DATASET_ANNOTATION: "other"}}}}}
        with pytest.raises(Exception, match="'other' has no known scheme"):
            kube.api.request("PATCH", path, other, **merge)
    finally:
        kube.api.delete("/api/v1/namespaces/before-the-policies")
