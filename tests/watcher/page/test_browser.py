"""The page in a real browser: on a phone and a desk, light and dark, by keyboard, and with scripts switched off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watcher.page import browser as browsers
from tests.watcher.page.browser import Browser
from tests.watcher.page.made import GIB, facts, release, warm
from watcher.page.hub import Hub
from watcher.page.model import Facts
from watcher.page.server import PageServer

BINARY = browsers.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARY, reason="no Chromium; apt-get install chromium"),
]
PHONE, DESK = (390, 844), (1280, 900)
LIVE = "document.getElementById('live').textContent === 'Live'"


class Site:
    def __init__(self) -> None:
        self.facts = large()
        self.hub = Hub(lambda: self.facts, max_viewers=5, every_s=0.05)
        self.server = PageServer(":0", self.hub)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/"


def small() -> Facts:
    """A cluster whose page fits a picture."""
    full = "0/6 nodes are available: 6 Insufficient nvidia.com/gpu. Waits for an autoscaler, or for other Pods to end."
    return facts(
        node_count=3,
        warms=[
            warm(6, pod="llama-70b-train-0"),
            warm(11, pod="llama-70b-train-1"),
            warm(3, pod="eval-nightly", phase="WaitingForCapacity", message=full, done_bytes=-1, node=""),
        ],
        releases=[release(number, "hit" if number % 3 else "miss") for number in range(5)],
        datasets=facts().datasets[:4],
    )


def large() -> Facts:
    return facts(node_count=5000, warm_count=500)


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with Browser(BINARY) as made:
        yield made


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with made.server:
        yield made


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_its_screen_and_its_light(tab: Browser, site: Site, size: tuple[int, int], dark: bool) -> None:
    tab.show(site.url, width=size[0], height=size[1], dark=dark)
    tab.wait(LIVE)
    assert tab.run("document.documentElement.scrollWidth") <= size[0], "nothing sticks out"
    paper, ink = json.loads(
        tab.run(
            "JSON.stringify([getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color])"
        )
    )
    assert (brightness(paper) < brightness(ink)) is dark
    assert contrast(paper, ink) > 7
    dim = tab.run("getComputedStyle(document.querySelector('.small')).color")
    assert contrast(paper, dim) > 4.5
    assert tab.run("document.querySelectorAll('#warms > li').length") == 50
    assert tab.run("document.querySelector('#find').getBoundingClientRect().height") >= 40, "large enough for a finger"
    assert tab.console == []


def test_rows_change_in_place_and_keep_the_keyboard_where_it_is(tab: Browser, site: Site) -> None:
    tab.show(site.url, width=DESK[0], height=DESK[1])
    tab.wait(LIVE)
    tab.run(
        "document.querySelector('#warms-pages a').focus(); document.querySelector('#warms > li').dataset.old = 'yes'"
    )
    site.facts = facts(node_count=5000, warms=[warm(number, done_bytes=(139 if number == 1 else number % 140) * GIB)
                                               for number in range(450)])  # fmt: skip
    tab.wait("document.querySelector('#warms-pages').textContent.includes('450')")
    assert tab.wait("document.querySelectorAll('#warms progress')[1].value === 99")
    assert tab.run("document.querySelector('#warms > li').dataset.old") == "yes", "a row that is the same stays"
    assert tab.run("document.activeElement.textContent") == "Next"
    site.facts = facts(warms=[warm(7), warm(5)])
    tab.wait("document.querySelectorAll('#warms > li').length === 2")
    assert tab.run("[...document.querySelectorAll('#warms .name')].map(e => e.textContent.slice(-1)).join('')") == "75"
    assert tab.console == []


def test_everything_can_be_reached_with_the_keyboard(tab: Browser, site: Site) -> None:
    tab.show(site.url, width=DESK[0], height=DESK[1])
    tab.wait(LIVE)
    reached = []
    for _ in range(8):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert reached[0] == "Skip to the content"
    assert "find" in reached
    assert "pause" in reached
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    tab.run("document.getElementById('pause').focus()")
    tab.press("Space")
    tab.wait("document.getElementById('live').textContent === 'Paused'")
    with site.hub._changed:
        assert site.hub._changed.wait_for(lambda: site.hub.viewers == 0, browsers.WAIT_S)
    tab.press("Space")
    tab.wait(LIVE)
    tab.run("document.getElementById('find').focus(); document.getElementById('find').value = 'gpu-4321'")
    tab.press("Enter")
    tab.wait("location.search.includes('gpu-4321') && document.querySelectorAll('#nodes > li').length === 1")


def test_without_scripts_the_page_is_whole_and_reloads_itself(tab: Browser, site: Site) -> None:
    tab.show(site.url, width=PHONE[0], height=PHONE[1], scripts=False)
    assert tab.run("document.querySelectorAll('#warms > li').length") == 50
    assert tab.run("document.querySelectorAll('#releases svg').length") == 100
    assert tab.run("document.getElementById('pause').hidden")
    site.facts = facts(warms=[warm(1)])
    tab.wait("document.querySelectorAll('#warms > li').length === 1")


def test_markup_of_a_pod_is_shown_and_never_run(tab: Browser, site: Site) -> None:
    bad = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    site.facts = facts(warms=[warm(1, pod=bad, dataset=bad, message=bad, done_bytes=-1)])
    tab.show(site.url, width=DESK[0], height=DESK[1])
    tab.wait(LIVE)
    site.facts = facts(warms=[warm(1, pod=f"{bad}2", dataset=bad, message=bad, done_bytes=-1)])
    tab.wait("document.querySelector('#warms .name').textContent.endsWith('2')")
    assert tab.run("document.title") == "Kube-Cache"
    assert tab.run("document.querySelectorAll('#warms img, #warms script').length") == 0


def test_pictures_for_the_docs(tab: Browser, site: Site, tmp_path: Path) -> None:
    """Put them into docs/images, with fewer colours, after a change of the page (--basetemp keeps them)."""
    site.facts = small()
    for name, size, dark in (("page-desk", (1000, 1230), False), ("page-phone-dark", (390, 1000), True)):
        tab.show(site.url, width=size[0], height=size[1], dark=dark)
        tab.wait(LIVE)
        tab.picture(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def channels(color: str) -> list[float]:
    return [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")[:3]]


def brightness(color: str) -> float:
    """Relative luminance, as WCAG defines it."""
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels(color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)
