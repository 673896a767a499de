"""docs/troubleshooting.md quotes what the product says, not what somebody remembers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kube_cache import errors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("cli", "watcher", "workflows", "activities", "kube_cache")
# Words of the kubelet, of Kubernetes' API and of people, which no code of ours holds.
FOREIGN = {"CreateContainerConfigError", "failed to create subPath directory", "violates PodSecurity", "FailedCreate"}
FOREIGN |= {"Pending", "/readyz", "403", "schedulingGates: []"}


def said() -> str:
    """All texts of the product, those that are put together from parts with a gap for each value."""
    texts = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.JoinedStr(values=values):
                    texts.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in values))
                case ast.Constant(value=str() as text):
                    texts.add(text)
    texts |= {kind for kind, value in vars(errors).items() if isinstance(value, type)}
    return "\n".join(" ".join(re.sub(r"\{[a-z_]*\}", "…", text).split()) for text in texts)


SAID = said()


def quotes() -> list[str]:
    """What stands in code marks in the first column of the tables."""
    rows = re.findall(r"^\| (?!---)(.*?) \| .* \| .* \|$", PAGE.read_text(), flags=re.MULTILINE)
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]


def unsaid(quote: str) -> list[str]:
    """Parts of the quote, between its gaps and the names of errors, that nothing says."""
    parts = [part.strip(" ;:.,()") for part in re.split(r"…|(?<=[a-z]): (?=…|[a-z])", quote)]
    return [part for part in parts if len(part) > 2 and part not in SAID and not any(word in part for word in FOREIGN)]


@pytest.mark.parametrize("quote", quotes())
def test_the_product_says_it(quote: str) -> None:
    assert unsaid(quote) == []


def test_a_quote_that_nothing_says_is_found() -> None:
    assert unsaid("no living agent on node …; is the moon up?") == ["is the moon up?"]
    assert len(quotes()) > 40
