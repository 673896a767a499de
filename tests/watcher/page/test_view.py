"""The address decides what a viewer sees; whatever it says, the view is bounded."""

from __future__ import annotations

import pytest

from tests.watcher.page.made import facts, warm
from watcher.page.view import Query, cut, parse_query, view
from watcher.page.words import age, public, short


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", Query()),
        ("find=a%20b&warms=2&nodes=3&datasets=4&phase=Warming", Query("a b", "Warming", 2, 3, 4)),
        ("warms=0", Query()),
        ("warms=-1", Query()),
        ("warms=x", Query()),
        ("warms=٣", Query()),
        ("warms=99999999999999999999", Query()),
        ("else=1&find=", Query()),
        ("find=" + "a" * 5000, Query("a" * 100)),
        ("&".join(f"a{number}=1" for number in range(100)), Query()),
        ("find=%ff", Query("\ufffd")),
    ],
)
def test_an_address_has_one_meaning_and_nonsense_none(text: str, query: Query) -> None:
    assert parse_query(text) == query


def test_a_link_keeps_the_rest_of_the_view() -> None:
    query = Query("a&b", "Warming", 2)
    assert parse_query(query.href(nodes=3).removeprefix("?")) == Query("a&b", "Warming", 2, 3)
    assert Query().href() == "?"


def test_a_filter_finds_pods_by_name_namespace_node_and_dataset() -> None:
    made = facts(warms=[warm(1, pod="One", namespace="ml", node="gpu-7", dataset="s3://b/x"), warm(2)])
    for find in ("one", "ML/one", "gpu-7", "s3://b/"):
        seen = view(made, Query(find))
        assert [row.pod for row in seen.warms.rows] == ["One"], find
        assert (seen.warms.count, seen.warms.total) == (1, 2)


def test_a_phase_selects_pods_and_the_counts_are_of_all() -> None:
    made = facts(warms=[warm(1, phase="Placing"), warm(2), warm(3)])
    seen = view(made, Query(phase="Placing"))
    assert [row.phase for row in seen.warms.rows] == ["Placing"]
    assert seen.phases == (("Warming", 2), ("Placing", 1))


def test_only_the_pods_that_are_shown_are_asked_for_their_words() -> None:
    asked = []

    def message(uid: str) -> str:
        asked.append(uid)
        return "says"

    view(facts(warm_count=500, message=message), Query())
    assert len(asked) == 50


def test_pages_hold_every_row_once() -> None:
    rows = list(range(101))
    pages = [cut(rows, page, 25, "", str, 101) for page in range(1, 6)]
    assert [row for page in pages for row in page.rows] == rows
    assert {page.pages for page in pages} == {5}
    assert cut([], 3, 25, "", str, 0).pages == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://b/p", "s3://b/p"),
        ("s3://b/p?X-Amz-Signature=abc", "s3://b/p"),
        ("https://user:pw@host/p?a=b,s3://c/d#e", "https://host/p,s3://c/d"),
        ("cannot read s3://b/p?sig=secret: try again", "cannot read s3://b/p try again"),
        ("no address? none", "no address? none"),
    ],
)
def test_of_an_address_the_query_and_the_user_are_never_shown(text: str, shown: str) -> None:
    assert public(text) == shown


def test_times_are_short() -> None:
    assert [age(seconds) for seconds in (3, 59, 60, 3599, 3700)] == ["0s", "55s", "1m", "59m", "1h01m"]
    assert [short(seconds) for seconds in (0.02, 1.5, 75)] == ["20 ms", "1.5s", "1m15s"]
