"""Finds what an expression in PromQL asks for: metrics, the labels that it matches or groups by, and their values.

No parser: it tells names of metrics from functions, keywords, labels and durations. promtool checks
the grammar.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<number>\d[\w.]*)
    |(?P<variable>\$\w+)
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<sign>[=!<>]=?~?|[-+*/%^(){}\[\],])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset"}


class Asked(NamedTuple):
    metrics: set[str]
    labels: set[str]
    """Labels that the expression groups by, or matches series by."""
    matched: set[tuple[str, str, str, str]]
    """(metric, label, operator, value) of each matcher."""


def asked(expression: str) -> Asked:
    """Raises AssertionError for a character that this reader does not know."""
    tokens = _tokens(expression)
    found = Asked(set(), set(), set())
    place, metric = 0, ""
    while place < len(tokens):
        kind, token = tokens[place]
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        if kind == "name" and token in _GROUPING and following == "(":
            place = _read_labels(tokens, place + 2, found)
            continue
        if token == "{":
            place = _read_matchers(tokens, place + 1, metric, found)
            continue
        if token == "[":
            place = next(at for at in range(place, len(tokens)) if tokens[at][1] == "]")
        elif (
            kind == "name" and token not in _WORDS | _GROUPING and following != "(" and not _is_aggregate(tokens, place)
        ):
            metric = token
            found.metrics.add(token)
        place += 1
    return found


def _tokens(expression: str) -> list[tuple[str, str]]:
    rest = _TOKEN.sub("", expression).strip()
    assert not rest, f"{rest!r} in {expression!r}"
    return [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(expression)]


def _is_aggregate(tokens: list[tuple[str, str]], place: int) -> bool:
    """Whether a name is an operator such as the `sum` of `sum by (phase) (…)`."""
    return place + 1 < len(tokens) and tokens[place + 1][1] in ("by", "without")


def _read_labels(tokens: list[tuple[str, str]], place: int, found: Asked) -> int:
    while tokens[place][1] != ")":
        if tokens[place][0] == "name":
            found.labels.add(tokens[place][1])
        place += 1
    return place + 1


def _read_matchers(tokens: list[tuple[str, str]], place: int, metric: str, found: Asked) -> int:
    while tokens[place][1] != "}":
        if tokens[place][1] == ",":
            place += 1
            continue
        (_, label), (_, operator), (_, value) = tokens[place : place + 3]
        found.matched.add((metric, label, operator, value.strip('"')))
        place += 3
    return place + 1
