"""Reads of botocore's data files only what this product asks of them: 12 MiB less in every process, and a client made sooner.

botocore describes all 116 operations of S3 and every service in every region, parses both files whole, and keeps them. Here
they are walked member by member: what is not wanted is parsed and dropped, and its memory used again for the next. Nothing is
copied or shipped, so any version of botocore serves; a file that does not look as expected is left to botocore as it is.

Deliberately not here: anything about credentials. The services that hand those out (STS, SSO) are loaded in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from botocore.loaders import JSONFileLoader, Loader, create_loader

_OPERATIONS: Final = ("GetObject", "GetObjectAttributes", "HeadBucket", "HeadObject", "ListObjectsV2")
"""HeadBucket: with it botocore finds the region that a bucket really is in."""
_SERVICES: Final = frozenset({"s3", "sts", "sso", "oidc", "portal.sso", "signin"})
"""Of the list of endpoints: what is fetched from, and whoever may hand out credentials for it."""
_DOCUMENTATION: Final = frozenset({"documentation", "documentationUrl"})
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_scan: Final = json.JSONDecoder().raw_decode

Place = int | dict[str, Any] | list[Any]
"""Where a JSON value begins in its text; or, where it was entered, the places of its members or items."""


def loader(data_path: str | None = None) -> Loader:
    """For `Session.register_component("data_loader", …)`. data_path: AWS_DATA_PATH, folders that come before botocore's."""
    made = create_loader(data_path)
    made.file_loader = _Sparse()
    return made


class _Sparse(JSONFileLoader):
    def _load_file(self, full_path: str, open_method: Callable[..., Any]) -> Any:
        read = next((read for name, read in _SPARSELY.items() if full_path.endswith(name)), None)
        if read is not None:
            try:
                with open_method(full_path, "rb") as handle:
                    return read(handle.read().decode())
            except (OSError, LookupError, TypeError, ValueError, AttributeError):
                pass  # not there, or another shape than expected: botocore knows what to do or to say
        return super()._load_file(full_path, open_method)  # type: ignore[misc] # the stubs know only what is public


def service(text: str) -> dict[str, Any]:
    """A service model with the operations that are used and the shapes that they lead to. Raises LookupError, ValueError."""
    places, _ = _walk(text, 0, ({"operations", "shapes"}, ()))
    model = {key: _value(text, place) for key, place in places.items() if isinstance(place, int)}
    operations = {name: _value(text, places["operations"][name]) for name in _OPERATIONS}
    shapes: dict[str, Any] = {}
    wanted = set(_named(operations))
    while wanted:
        name = wanted.pop()
        shapes[name] = _value(text, places["shapes"][name])
        wanted |= set(_named(shapes[name])) - shapes.keys()
    return {**model, "operations": operations, "shapes": shapes}


def endpoints(text: str) -> dict[str, Any]:
    """The list of endpoints with the services that are used. Raises LookupError, ValueError."""
    places, _ = _walk(text, 0, ({"partitions"}, {"services"}, ()))
    whole = {key: _value(text, place) for key, place in places.items() if isinstance(place, int)}
    whole["partitions"] = []
    for each in places["partitions"]:
        partition = {key: _value(text, place) for key, place in each.items() if isinstance(place, int)}
        kept = {name: _value(text, place) for name, place in each["services"].items() if name in _SERVICES}
        whole["partitions"].append({**partition, "services": kept})
    return whole


_SPARSELY: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "/s3/2006-03-01/service-2.json": service,
    "/s3/2006-03-01/service-2.json.gz": service,
    "/endpoints.json": endpoints,
    "/endpoints.json.gz": endpoints,
}


def _walk(text: str, at: int, enter: tuple[Any, ...]) -> tuple[Any, int]:
    """(places in the object or list of objects at `at`, where it ends). enter: for each level, the members to enter."""
    at = _skip(text, at)
    if text[at] == "[":
        items = []
        at = _skip(text, at + 1)
        while text[at] != "]":
            item, at = _walk(text, at, enter)
            items.append(item)
            at = _next(text, at)
        return items, at + 1
    if text[at] != "{":
        raise ValueError(f"an object was expected at {at}")
    members: dict[str, Place] = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _scan(text, at)
        at = _skip(text, _skip(text, at) + 1)
        members[key] = at
        if key in enter[0]:
            members[key], at = _walk(text, at, enter[1:])
        else:
            _, at = _scan(text, at)
        at = _next(text, at)
    return members, at + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _next(text: str, at: int) -> int:
    """The next member or item, or the end of what holds them."""
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _value(text: str, place: int) -> Any:
    return _terse(_scan(text, place)[0])


def _terse(value: Any) -> Any:
    """With the documentation, which is most of it, empty; botocore wants the member to be there."""
    if isinstance(value, dict):
        return {
            key: "" if key in _DOCUMENTATION and isinstance(each, str) else _terse(each) for key, each in value.items()
        }
    return [_terse(each) for each in value] if isinstance(value, list) else value


def _named(value: Any) -> Iterator[str]:
    """The shapes that a description refers to."""
    if isinstance(value, dict):
        if isinstance(name := value.get("shape"), str):
            yield name
        for each in value.values():
            yield from _named(each)
    elif isinstance(value, list):
        for each in value:
            yield from _named(each)
