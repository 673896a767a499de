"""HTML of made-up facts: complete, escaped, bounded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from tests.watcher.page.made import GIB, NOW, facts, prefetch, release, warm
from watcher.page import render
from watcher.page.model import Facts, Holding, Node, Span, Step
from watcher.page.view import Query, parse_query

MARKUP = "<script>alert('x')</script>\"'&<b>"
MAX_BYTES = 200_000
"""Of a page, whatever the cluster holds."""


def html(made: Facts, query: str = "") -> str:
    asked = parse_query(query)
    return render.page(render.frame(made, asked), asked, live=True)


def text(made: Facts, query: str = "") -> str:
    """Words of the page, as a reader without styles gets them."""
    return " ".join(re.sub(r"<[^>]+>", " ", html(made, query)).split())


class Checker(HTMLParser):
    """Collects ids and tags; fails on a tag that is closed twice or never."""

    VOID = ("meta", "link", "input", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(source: str) -> Checker:
    checker = Checker()
    checker.feed(source)
    checker.close()
    assert checker.open == []
    return checker


def test_the_first_paint_says_everything_without_a_script() -> None:
    said = text(facts(warms=[warm(7, message="12 % of 140.0 GiB")]))
    for part in (
        "llama-70b-worker-00007", "Warming", "35 %", "49.0 GiB of 140.0 GiB", "3.2 GiB/s", "28s left", "gpu-0007",
        "Hit ratio", "GPU time not held", "240.0 h", "about $960",
        "eval-00001", "resolve 30 ms, seat 50 ms", "fetch 43s",
        "on 1 nodes, pinned on 1", "free 900.0 GiB, reserved 40.0 GiB", "holds 420.0 GiB, pinned 140.0 GiB", "is cordoned",
    ):  # fmt: skip
        assert part in said, part
    assert '<noscript><meta http-equiv="refresh"' in html(facts())


def test_prefetches_are_shown_with_how_far_they_are_what_holds_them_up_and_their_end() -> None:
    said = text(facts(prefetches=[prefetch(1, message="1 of 3 nodes; 1 of them stand back")], prefetch_count=70))
    for part in (
        "70 that live, 1 of them below", "ml/ nightly-1", "Warming", "33 %", "1 of 3 nodes, kept until 2027-01-15 09:00 UTC",
        "1 of them stand back", "s3://models/llama-1/weights",
    ):  # fmt: skip
        assert part in said, part
    assert "No prefetch lives" in text(facts(prefetches=(), prefetch_count=0))
    assert "nightly-1" not in text(facts(), "find=llama-0"), "the filter is for them, too"
    hostile = html(facts(prefetches=[prefetch(1, name=f"ml/{MARKUP}", message=MARKUP, dataset=MARKUP, phase=MARKUP)]))
    assert MARKUP not in hostile
    parsed(hostile)


def test_a_pod_says_what_neighbours_sent() -> None:
    assert "61 % from 7 neighbours" in text(facts(warms=[warm(7, from_neighbours="61 % from 7 neighbours")]))
    assert "neighbour" not in text(facts(warms=[warm(7)]))


def test_the_page_is_sound_html_with_each_id_once_and_a_name_for_each_control() -> None:
    checker = parsed(html(facts(node_count=60, warm_count=120), "warms=2"))
    assert len(checker.ids) == len(set(checker.ids))
    labels = {attrs.get("for") for tag, attrs in checker.tags if tag == "label"}
    for tag, attrs in checker.tags:
        if tag == "input" and attrs.get("type") != "hidden":
            assert attrs["id"] in labels
        if tag in ("progress", "nav") or attrs.get("role") == "img":
            assert attrs["aria-label"]
        if tag == "section":
            assert attrs["aria-labelledby"] in checker.ids
        assert not [name for name in attrs if name == "style" or name.startswith("on")], "the policy forbids both"
    addresses = [
        attrs.get("src") or attrs.get("href") or "" for tag, attrs in checker.tags if tag in ("script", "link")
    ]
    assert not [address for address in addresses if "//" in address], "no resources of others"


@pytest.mark.parametrize("field", ["pod", "namespace", "dataset", "phase", "message", "node"])
def test_markup_in_a_pod_is_text(field: str) -> None:
    made = html(facts(warms=[warm(1, **{field: MARKUP, "done_bytes": -1})]))
    assert "<b>" not in made
    assert "&lt;script&gt;" in made
    assert "<script>" not in made
    parsed(made)


def test_markup_in_releases_nodes_datasets_queries_and_errors_is_text() -> None:
    held = Holding(MARKUP, MARKUP, 1, ready=True)
    made = facts(
        releases=[release(1, pod=MARKUP, node=MARKUP)],
        nodes=[Node(MARKUP, MARKUP, (held,))],
        held_error=MARKUP,
    )
    assert "<b>" not in html(made)
    found = html(facts(), "find=%3Cb%3E%22onfocus=x&phase=%3Cb%3E%22")
    assert "<b>" not in found
    assert 'value="&lt;b&gt;&#34;onfocus=x"' in found
    parsed(found)
    assert "<b>" not in html(Facts(NOW, leading=False, holder=MARKUP))


def test_a_large_cluster_has_a_page_of_bounded_size() -> None:
    made = facts(node_count=5000, warm_count=500)
    page = html(made)
    assert len(page.encode()) < MAX_BYTES
    assert page.count("<li ") < 250
    assert "5000, page 1 of 200" in text(made)
    assert "gpu-4999" in text(made, "nodes=200")
    assert "gpu-4999" in text(made, "nodes=999999"), "a page behind the last one is the last one"
    assert "1 of 5000" in text(made, "find=gpu-3210")
    long = facts(warms=[warm(number, pod="p" * 253, message="m" * 5000, done_bytes=-1) for number in range(500)])
    assert len(html(long).encode()) < MAX_BYTES


def test_a_node_with_very_many_snapshots_names_some_and_counts_the_others() -> None:
    held = tuple(Holding(f"s3://models/{number}", f"{number}", GIB, ready=True) for number in range(1000))
    said = text(facts(nodes=[Node("gpu-1", holdings=held)], datasets=[]))
    assert "holds 1000.0 GiB" in said
    assert "and 994 more" in said


@pytest.mark.parametrize(
    ("made", "said", "unsaid"),
    [
        pytest.param(
            Facts(NOW, leading=False, holder="op-1"), "This operator stands by. op-1 leads: look at its page", "As of",
            id="a follower",
        ),
        pytest.param(Facts(NOW, leading=False), "Nobody leads yet", "As of", id="nobody leads"),
        pytest.param(
            Facts(NOW, waits_for="the first list of nodes", leading=False), "waits for the first list of nodes",
            "stands by", id="not ready",
        ),
        pytest.param(facts(held_at=0, nodes=[]), "Who holds what is being asked", "as of", id="no list yet"),
        pytest.param(facts(held_error="deadline"), "Temporal does not list who holds what: deadline", "-", id="no answer"),
        pytest.param(facts(held_is_cut=True), "there are more", "-", id="too many to read"),
        pytest.param(facts(warms=[]), "No Pod waits for its data", "-", id="nothing to do"),
        pytest.param(facts(hours=[]), "Hit ratio not yet", "-", id="no release yet"),
        pytest.param(facts(since=NOW - 60), "when this operator started", "-", id="young"),
    ],
)  # fmt: skip
def test_what_the_operator_does_not_know_is_said(made: Facts, said: str, unsaid: str) -> None:
    found = text(made).partition("Read-only.")[0]
    assert said in found
    assert unsaid == "-" or unsaid not in found


def test_a_disk_that_no_agent_told_of_is_not_invented() -> None:
    assert "free and reserved: not told" in text(facts(nodes=[Node("gpu-1")]))
    assert " free " not in text(facts(nodes=[Node("gpu-1")])).partition("Nodes")[2].partition("Read-only")[0].replace(
        ", free and reserved: not told", ""
    )


def test_a_waterfall_fills_its_row_and_leaves_out_what_nobody_could_see() -> None:
    bars = render.bars([Span(Step.SEAT, 1), Span(Step.FETCH, 3), Span(Step.BIND, 0.00001)])
    assert [(bar.step, round(bar.x), round(bar.width)) for bar in bars] == [(Step.SEAT, 0, 250), (Step.FETCH, 250, 750)]
    assert render.bars([]) == []


def test_a_message_holds_only_rows_that_changed() -> None:
    query = Query()
    before = render.frame(facts(warm_count=40), query)
    assert render.changes(before, render.frame(facts(warm_count=40), query)) == ""
    changed = [warm(number) if number != 3 else warm(3, done_bytes=139 * GIB) for number in range(40)]
    said = json.loads(render.changes(before, render.frame(facts(warms=changed), query)))
    assert list(said) == ["warms"]
    assert said["warms"]["order"] is None
    assert list(said["warms"]["rows"]) == [render.row_id("warm", "uid-3")]
    gone = json.loads(render.changes(before, render.frame(facts(warms=changed[:3]), query)))
    assert len(gone["warms"]["order"]) == 3
    assert gone["warms"]["rows"] == {}
    assert set(json.loads(render.changes(None, before))) == set(before)


def test_the_ages_of_rows_change_seldom() -> None:
    rows = [render.frame(facts(warms=[warm(1, created_at=NOW - 600)], at=NOW + second), Query())["warms"]
            for second in range(30)]  # fmt: skip
    assert len({tuple(row.values()) for row in rows}) <= 2
