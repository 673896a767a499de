"""What the code says is what the generated parts of the documentation say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.contracts.common import Phase, PodView
from kube_cache.errors import InvalidRequest
from kube_cache.telemetry.metrics import DECLARED
from tools.pages import annotations, cli, metrics, settings
from tools.pages.__main__ import PARTS
from tools.pages.declared import explanations
from tools.pages.marks import Part
from workflows.warm_pod import options

# Options whose values are words, by the field that holds them.
WORDS = {
    names.ON_TIMEOUT_ANNOTATION: "on_timeout",
    names.VERIFY_ANNOTATION: "verify",
    names.REQUIRE_ANNOTATION: "require",
    names.ON_STUCK_ANNOTATION: "on_stuck",
    names.NEIGHBOURS_ANNOTATION: "neighbours",
}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_page_is_what_the_code_says(part: Part) -> None:
    page = part.page.read_text()
    assert page == part.written(page), "run python -m tools.pages"


def test_words_beside_a_generated_part_stay(tmp_path: Path) -> None:
    part = Part(tmp_path / "page.md", "part", lambda: "fresh")
    written = part.written(f"before\n{part.begin}\nstale\n{part.end}\nafter\n")
    assert written == f"before\n{part.begin}\n\nfresh\n\n{part.end}\nafter\n"


def test_a_page_without_the_marks_is_named(tmp_path: Path) -> None:
    part = Part(tmp_path / "page.md", "part", lambda: "fresh")
    with pytest.raises(ValueError, match=r"page\.md lacks the marks of part"):
        part.written("words")


def test_every_metric_has_its_row() -> None:
    rows = metrics.render()
    assert [declared.name for declared in DECLARED.declarations if f"| `{declared.name}` |" not in rows] == []


def test_every_annotation_and_mark_of_a_pod_has_its_row() -> None:
    listed = {*annotations.WRITTEN_BY_USERS, *annotations.WRITTEN_BY_US}
    of_pods = {
        name
        for name in explanations(names)
        if name.endswith(("_ANNOTATION", "_LABEL")) or name in {"GATE", "CONDITION"}
    }
    assert listed == of_pods
    bare = {
        name
        for name in vars(names)
        if name.endswith(("_ANNOTATION", "_LABEL")) and not name.startswith(("SEAT_", "AHEAD_"))
    }
    assert bare - listed == set()


def test_every_phase_of_a_pod_has_its_row() -> None:
    rows = annotations.phases()
    missing = [phase for phase in Phase if f"| `{phase}` |" not in rows]
    assert missing == [Phase.POD_GONE, Phase.READY], "a Pod that is gone says nothing, and Ready is a dataset's"


@pytest.mark.parametrize("annotation", WORDS)
def test_the_values_that_are_named_are_those_that_are_taken(annotation: str) -> None:
    row = next(line for line in annotations.users().splitlines() if f"`{annotation}`" in line)
    values = [word.strip("`") for word in row.split("|")[2].split() if word.startswith("`")]
    values = [value.rstrip(",").strip("`") for value in values]
    for value in values:
        options.check(PodView(**{WORDS[annotation]: value}))
    with pytest.raises(InvalidRequest) as refused:
        options.check(PodView(**{WORDS[annotation]: "nonsense"}))
    assert refused.value.message.endswith(f"write {' or '.join(values)}")


def test_every_setting_has_its_row_and_no_secret_shows_a_default() -> None:
    rows = settings.render().splitlines()
    row = next(line for line in rows if "KUBE_CACHE_ORIGIN__GS_SECRET_KEY" in line)
    assert "| - |" in row
    assert any(line.startswith("| `KUBE_CACHE_STORE__MIN_FREE` | `0.2` | number, ≥ 0, < 1 |") for line in rows)
    assert any(line.startswith("| `KUBE_CACHE_AGENT__DRAIN_S` | `20` | s, ≥ 0 |") for line in rows)


def test_every_command_has_its_section() -> None:
    sections = [line for line in cli.render().splitlines() if line.startswith("### ")]
    assert "### `kube-cache why`" in sections
    assert "### `kube-cache store evict`" in sections
