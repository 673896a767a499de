"""What an answer proves of an object's version, and what is asked for when it proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_cache.dataset import etags
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import ObjectHead
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import OriginUnsuitable, SourceChanged
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.versions import Match, Versions, compare
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin, Request
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, HEADERS, assert_whole

LISTED_AT = 1_790_000_000
LAST_MODIFIED = "Mon, 21 Sep 2026 14:13:20 GMT"


def remote(etag: str = '"e"', modified: int = LISTED_AT) -> RemoteObject:
    return RemoteObject("s3", "bucket", "key", "key", len(DATA), etag, None, modified)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('"e"', '"e"'),
        ('W/"e"', 'W/"e"'),
        ("e", '"e"'),
        ("W/e", 'W/"e"'),
        ("", ""),
        ('""', ""),
        ('"e\r\nX-Injected: 1"', ""),
        ('"é"', ""),
    ],
)
def test_an_etag_gets_its_quotes_and_never_a_second_line(text: str, canonical: str) -> None:
    assert etags.canonical(text) == canonical


@pytest.mark.parametrize(
    ("listed", "etag", "modified", "match"),
    [
        (remote(), '"e"', 0, Match.SAME),
        (remote(), 'W/"e"', 0, Match.SAME),
        (remote('W/"e"'), '"e"', 0, Match.SAME),
        (remote(), '"f"', LISTED_AT, Match.OTHER),
        (remote(), "", LISTED_AT, Match.SAME),
        (remote(), "", LISTED_AT + 1, Match.SAME),
        (remote(), "", LISTED_AT + 2, Match.OTHER),
        (remote(""), '"e"', LISTED_AT, Match.SAME),
        (remote(), "", 0, Match.UNTOLD),
        (remote("", 0), '"e"', LISTED_AT, Match.UNTOLD),
    ],
)
def test_the_etag_is_compared_weakly_else_the_time(
    listed: RemoteObject, etag: str, modified: int, match: Match
) -> None:
    assert compare(listed, etag, modified) is match


def test_only_a_strong_etag_is_a_condition() -> None:
    versions = Versions(lambda _remote: pytest.fail("no HEAD"), lambda _remote: pytest.fail("no question"))
    assert versions.condition(remote()) == '"e"'
    assert versions.condition(remote('W/"e"')) == ""
    assert versions.condition(remote("")) == ""


def test_an_answer_without_pins_is_believed_where_if_match_is_heeded_and_that_is_asked_once() -> None:
    asked: list[RemoteObject] = []
    versions = Versions(lambda _remote: pytest.fail("no HEAD"), lambda remote: asked.append(remote) is None)
    for _ in range(3):
        versions.check(remote(), "", 0)
    assert len(asked) == 1


@pytest.mark.parametrize("listed", [remote(), remote('W/"e"'), remote("")], ids=["not heeded", "weak", "no ETag"])
def test_an_answer_that_proves_nothing_says_what_is_missing_and_not_that_the_object_was_replaced(
    listed: RemoteObject,
) -> None:
    versions = Versions(lambda _remote: pytest.fail("no HEAD"), lambda _remote: False)
    with pytest.raises(OriginUnsuitable, match=r"neither ETag nor Last-Modified.*let the proxy pass ETag") as caught:
        versions.check(listed, "", 0)
    assert not caught.value.retryable


@pytest.mark.parametrize(("etag", "replaced"), [('"e"', False), ('W/"e"', False), ('"f"', True), ("", True)], ids=str)
def test_a_412_is_believed_unless_the_object_still_has_its_etag(etag: str, replaced: bool) -> None:
    versions = Versions(lambda _remote: ObjectHead(len(DATA), etag, None, None, None, LISTED_AT), lambda _remote: True)
    assert versions.is_replaced(remote()) is replaced
    assert versions.condition(remote()) == ('"e"' if replaced else "")


# The engine over these rules.


def edited(**headers: str | None) -> Callable[[Request], Fault]:
    """A proxy that changes headers of every answer; a header of None is left out."""
    return lambda _request: faults.changed(headers={name.replace("_", "-"): text for name, text in headers.items()})


def listed(origin: FaultyOrigin, size: int) -> RemoteObject:
    checksum = HEADERS if size == len(DATA) else {}
    stored = origin.put("key", DATA[:size], headers={**checksum, "Last-Modified": LAST_MODIFIED})
    return RemoteObject("s3", "bucket", "key", "key", stored.size, stored.etag, None, LISTED_AT)


@pytest.mark.parametrize("size", [5000, len(DATA)], ids=["small", "large"])
@pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(edited(ETag='W/"0123456789abcdef-1"'), id="weak"),
        pytest.param(edited(ETag="0123456789abcdef-1"), id="unquoted"),
        pytest.param(edited(ETag=None), id="absent"),
        pytest.param(edited(ETag=None, Last_Modified=None), id="absent, Last-Modified as well"),
    ],
)
def test_an_etag_that_a_proxy_changed_is_no_other_object(
    origin: FaultyOrigin, quick: Fetcher, size: int, proxy: Callable[[Request], Fault]
) -> None:
    origin.script = proxy
    quick.fetch([listed(origin, size)])
    assert quick.content("key") == DATA[:size]


@pytest.mark.parametrize("size", [5000, len(DATA)], ids=["small", "large"])
def test_a_proxy_that_compares_if_match_with_an_etag_of_its_own_is_asked_without(
    origin: FaultyOrigin, quick: Fetcher, size: int
) -> None:
    weak = edited(ETag='W/"0123456789abcdef-1"')
    origin.script = lambda request: (
        faults.status("412 Precondition Failed") if "if-match" in request.headers else weak(request)
    )
    quick.fetch([listed(origin, size)])
    assert quick.content("key") == DATA[:size]


def test_a_replaced_object_is_told_by_its_time_where_it_has_no_etag(origin: FaultyOrigin, quick: Fetcher) -> None:
    origin.script = edited(ETag=None, Last_Modified="Mon, 21 Sep 2026 14:20:00 GMT")
    with pytest.raises(SourceChanged, match="it was modified at"):
        quick.fetch([listed(origin, len(DATA))])


def test_an_origin_that_tells_nothing_and_heeds_nothing_is_unsuitable(origin: FaultyOrigin, quick: Fetcher) -> None:
    silent = edited(ETag=None, Last_Modified=None)

    ranges = {"Content-Length": "1", "Content-Range": f"bytes 0-0/{len(DATA)}"}
    deaf = faults.changed(status="206 Partial Content", headers=ranges, body=memoryview(DATA)[:1])
    origin.script = lambda request: deaf if "heeded" in request.headers.get("if-match", "") else silent(request)
    with pytest.raises(OriginUnsuitable, match="s3://bucket/key"):
        quick.fetch([listed(origin, len(DATA))])


def test_a_head_without_a_length_is_no_other_object(origin: FaultyOrigin, quick: Fetcher) -> None:
    origin.script = lambda request: (
        faults.changed(headers={"Content-Length": None, "Transfer-Encoding": "chunked"}, body=memoryview(b""))
        if request.method == "HEAD"
        else None
    )
    quick.fetch([listed(origin, len(DATA))])
    assert_whole(quick)


def test_a_list_without_quotes_and_answers_with_them_are_of_one_object(origin: FaultyOrigin, quick: Fetcher) -> None:
    """As fake-gcs-server does."""
    origin.put("set/key", DATA, headers=HEADERS)
    page = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Contents><Key>set/key</Key>'
        "<LastModified>2026-09-21T14:13:20.000Z</LastModified><ETag>0123456789abcdef-1</ETag>"
        f"<Size>{len(DATA)}</Size></Contents></ListBucketResult>"
    ).encode()
    answer = faults.changed(status="200 OK", headers={"Content-Length": str(len(page))}, body=memoryview(page))
    origin.script = lambda request: answer if "list-type" in request.target else None
    (listed,) = list_dataset(quick.origins.of("s3"), DatasetUri.parse("s3://bucket/set/")).objects
    assert (listed.etag, listed.modified) == ('"0123456789abcdef-1"', LISTED_AT)
    quick.fetch([listed])
    assert quick.content("set/key") == DATA
