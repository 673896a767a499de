"""The tables and sums as people and scripts read them."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from cli import inventory, savings, status
from cli.cluster import parse_pod
from cli.marks import clock
from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.contracts.prefetch import PrefetchStatus
from kube_cache.contracts.warm_pod import WarmPodResult
from kube_cache.errors import InvalidRequest
from kube_cache.insight.holdings import MAX_NAMED, by_dataset
from kube_cache.insight.prefetches import Living
from kube_cache.insight.savings import of_results
from kube_cache.insight.sources import Sources
from kube_cache.insight.warms import Filter, Overview, Warm, collect
from kube_cache.temporal.holdings import Holding

GIB = 1 << 30


def rendered(warms: list[Warm], *, limit: int = 100, width: int = 140) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(status.table(collect(warms, Filter(), limit), now=1000))
    return output.getvalue()


def test_the_table_has_bar_rate_and_time_and_counts_what_it_does_not_show() -> None:
    warm = Warm("ml", "train", "Warming", "gpu-1", "s3://models/gpt", 940, "", 100 * GIB, 50 * GIB, 2.0 * GIB, 25.0)
    text = rendered([warm, *(Warm("ml", f"p{number}", "Paused", "", "s3://m/x", 990) for number in range(9))], limit=3)
    line = next(line for line in text.splitlines() if "ml/train" in line)
    for words in ("Warming", "gpu-1", "s3://models/gpt", "█████░░░░░ 50% of 100.0 GiB", "2.0 GiB/s", "25s", "1m00s"):
        assert words in line
    assert "10 Pods: 9 Paused, 1 Warming. 7 younger ones are not shown (--limit)" in text
    assert "No Pod waits" in rendered([])


def test_the_table_says_what_neighbours_sent_once_one_has() -> None:
    warm = Warm("ml", "train", "Warming", "gpu-1", "s3://models/gpt", 940, "", 100, 50, 2.0, 25.0)
    assert "SOURCE" not in rendered([warm])
    fed = replace(warm, pod="fed", neighbour_bytes=30, from_neighbours="61 % from 7 neighbours")
    text = rendered([warm, fed])
    assert "SOURCE" in text
    assert [line for line in text.splitlines() if "61 % from 7 neighbours" in line] == [
        line for line in text.splitlines() if "ml/fed" in line
    ]


def test_the_table_counts_the_prefetches_and_names_those_that_do_not_go_on() -> None:
    seen = collect([], Filter(), 10)
    seen.prefetches = Living(6, Counter({"Ready": 1, "Waiting": 5}), [f"ml/n{number}" for number in range(5)])
    output = io.StringIO()
    Console(file=output, width=160).print(status.table(seen, now=1000))
    text = output.getvalue()
    assert "No Pod waits for data" in text
    assert "6 prefetches: 5 Waiting, 1 Ready. Not going on: ml/n0, ml/n1, ml/n2 and 2 more" in text
    assert status.document(seen, Sources())["prefetches"]["by_phase"] == {"Ready": 1, "Waiting": 5}
    assert "prefetch" not in rendered([])


class Client:
    """Temporal with two holdings of one dataset, and one prefetch that keeps it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, listed: StoreResponse) -> None:
        held = [Holding("s3://m/gpt", digit * 64, f"gpu-{digit}", "Ready", GIB) for digit in "12"]
        until = time.time() + 3600
        living = PrefetchStatus("ml", "nightly", "Ready", "", ["s3://m/gpt"], ready=2, expires_at=until)

        async def list_holdings(_client: object, *, node: str, dataset: str) -> list[Holding]:
            assert not dataset
            return [each for each in held if node in ("", each.node)]

        async def asked(_client: object) -> list[PrefetchStatus]:
            return [living]

        async def of_agent(_client: object, request: StoreRequest) -> StoreResponse:
            assert (request.node, request.verb) == ("gpu-1", "ls")
            return listed

        monkeypatch.setattr(inventory, "list_holdings", list_holdings)
        monkeypatch.setattr(inventory.prefetches, "ask", asked)
        monkeypatch.setattr(inventory.store_remote, "ask", of_agent)
        monkeypatch.setenv("COLUMNS", "200")

    def show(self, *, node: str = "", as_json: bool = False) -> None:
        sources = Sources(temporal=self)  # type: ignore[arg-type]
        assert asyncio.run(inventory._run(sources, node=node, dataset="", limit=9, as_json=as_json)) == ExitCode.DONE


def listed(**mark: object) -> StoreResponse:
    return StoreResponse(ExitCode.DONE, json.dumps([{"digest": "1" * 64, "prefetched": mark or None}]))


def test_the_inventory_says_who_keeps_a_dataset_and_until_when(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(monkeypatch, listed())
    client.show(as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["datasets"]
    (kept,) = row["prefetched"]
    assert (kept["name"], kept["nodes"]) == ("ml/nightly", 2)
    client.show()
    assert f"on 2 until {clock(kept['until'])} (ml/nightly)" in capsys.readouterr().out


def test_the_inventory_of_a_node_says_which_copy_is_prefetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until = time.time() + 3600
    client = Client(monkeypatch, listed(by=["prefetch/ml/nightly"], until=until, used=False))
    client.show(node="gpu-1")
    assert f"until {clock(until)}, unused (ml/nightly)" in capsys.readouterr().out
    Client(monkeypatch, listed(by=[], until=None, used=True)).show(node="gpu-1")
    assert "ended (let go)" in capsys.readouterr().out
    Client(monkeypatch, listed()).show(node="gpu-1", as_json=True)
    assert json.loads(capsys.readouterr().out)["holdings"][0]["prefetched"] is None


def test_an_agent_that_does_not_answer_leaves_the_rest_of_the_inventory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Client(monkeypatch, StoreResponse(ExitCode.UNREACHABLE, message="the agent is away")).show(node="gpu-1")
    printed = capsys.readouterr()
    assert "s3://m/gpt" in printed.out
    assert "which of them are prefetched is not known: the agent is away" in printed.err


def test_a_narrow_terminal_still_shows_pod_and_phase() -> None:
    text = rendered([Warm("ml", "train", "WaitingForGates", "", "s3://models/" + "x" * 200, 940)], width=80)
    assert "ml/train" in text
    assert "WaitingForGates" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_live_view_shows_each_look_and_what_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Seen(Exception):
        pass

    async def overview(sources: Sources, _wanted: Filter, *, limit: int) -> Overview:
        assert limit < 100, "no more rows than the screen has lines"
        sources.temporal_error = "connection refused"
        return collect([Warm("ml", "train", "Paused", "", "s3://m/x", 1)], Filter(), limit)

    async def rest(_started: float) -> None:
        raise Seen

    monkeypatch.setattr(status, "overview", overview)
    monkeypatch.setattr(status, "_rest", rest)
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(Seen):
        asyncio.run(status._watch(Sources(), Filter(), 100))
    text = capsys.readouterr().out
    assert "ml/train" in text
    assert "Temporal tells nothing: connection refused" in text


def test_the_document_has_the_documented_keys() -> None:
    seen = collect([Warm("ml", "train", "Paused", "", "s3://m/x", 1)], Filter(), 5)
    document = status.document(seen, Sources(temporal_error="away"))
    assert set(document) == {
        "warms", "shown", "total", "by_phase", "prefetches", "kubernetes_error", "temporal_error"
    }  # fmt: skip
    assert set(document["warms"][0]) == {
        "namespace", "pod", "phase", "node", "dataset", "since", "message", "total_bytes", "done_bytes", "bytes_per_s",
        "eta_s", "neighbour_bytes", "from_neighbours",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["train", "/train", "ml/", "ml/train/x", ""])
def test_a_pod_is_named_with_its_namespace(text: str) -> None:
    with pytest.raises(InvalidRequest, match="NAMESPACE/POD"):
        parse_pod(text)
    assert parse_pod("ml/train") == ("ml", "train")


def test_holdings_are_added_up_by_dataset_and_name_a_bounded_number_of_nodes() -> None:
    holdings = [Holding("s3://m/big", "d1", f"gpu-{number}", "Ready", GIB) for number in range(5000)]
    holdings += [Holding("s3://m/big", "d2", "gpu-1", "Ready", GIB), Holding("s3://m/big", "d2", "gpu-2", "Warming", 0)]
    holdings += [Holding("s3://m/small", "d3", "gpu-1", "Ready", 5)]
    big, small = by_dataset(holdings)
    assert (big.ready, big.fetching, big.bytes, len(big.snapshots)) == (5001, 1, 5001 * GIB, 2)
    assert len(big.nodes) == MAX_NAMED
    assert (small.dataset, small.nodes) == ("s3://m/small", ["gpu-1"])


def test_savings_count_what_was_released_and_say_what_is_left_out() -> None:
    saved = of_results([
        WarmPodResult("released", bytes=GIB, fetched_bytes=GIB, gpu_seconds_saved=7200),
        WarmPodResult("released", bytes=GIB, hit=True),
        WarmPodResult("pod_gone", gpu_seconds_saved=99),
    ])  # fmt: skip
    saved.total = 5
    assert (saved.releases, saved.hits, saved.read, saved.gpu_seconds) == (2, 1, 3, 7200)
    text = savings.words(saved, "24h", 4.0)
    for words in (
        "2 Pods released, 1 of them",
        "2.0 GiB, of which 1.0 GiB",
        "2h00m, $8.00 at $4",
        "2 of 5 workflows",
    ):
        assert words in text
    assert "would have been bound first" in text
    assert "neighbour" not in text
    assert savings.document(saved, 1.0, 4.0)["dollars"] == 8.0


def test_savings_tell_the_bytes_of_neighbours_from_those_of_the_origin() -> None:
    saved = of_results([
        WarmPodResult("released", bytes=2 * GIB, fetched_bytes=2 * GIB, neighbour_bytes=GIB // 2, neighbours=3),
        WarmPodResult("released", bytes=GIB, fetched_bytes=GIB),
    ])  # fmt: skip
    text = savings.words(saved, "24h", 4.0)
    assert "3.0 GiB were fetched while a Pod waited: 512.0 MiB from neighbours, the rest from the origin." in text
    assert "at the speed that they sent it" in text
    assert savings.document(saved, 1.0, 4.0)["neighbour_bytes"] == GIB // 2
