"""Loads only the used part of botocore's data files: 12 MiB less in every process, and a client created sooner.

botocore parses and keeps descriptions of all 116 operations of S3 and of every service in every region. This loader
walks both files member by member and drops a member that is not used before it parses the next, so that they share
memory. Nothing is copied or shipped, so any version of botocore serves; a file of an unexpected shape is left to
botocore.

Deliberately not here: anything about credentials. The services that hand those out (STS, SSO) are loaded in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from botocore.loaders import JSONFileLoader, Loader, create_loader

_OPERATIONS: Final = ("GetObject", "GetObjectAttributes", "HeadBucket", "HeadObject", "ListObjectsV2")
"""HeadBucket: botocore's own, to find the region that a bucket really is in."""
_SERVICES: Final = frozenset({"s3", "sts", "sso", "oidc", "portal.sso", "signin"})
"""Kept of the list of endpoints: S3, and the services that may hand out credentials for it."""
_DOCUMENTATION: Final = frozenset({"documentation", "documentationUrl"})
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_scan: Final = json.JSONDecoder().raw_decode

Place = int | dict[str, Any] | list[Any]
"""The offset of a JSON value in its text; for a value that was entered, the places of its members or items."""


def loader(data_path: str | None = None) -> Loader:
    """Create the loader for `Session.register_component("data_loader", …)`.

    data_path: AWS_DATA_PATH, the folders that are searched before botocore's own.
    """
    loader = create_loader(data_path)
    loader.file_loader = _SparseFileLoader()
    return loader


class _SparseFileLoader(JSONFileLoader):
    def _load_file(self, full_path: str, open_method: Callable[..., Any]) -> Any:
        read_part = next((read_part for name, read_part in _PARTIALLY_READ.items() if full_path.endswith(name)), None)
        if read_part is not None:
            try:
                with open_method(full_path, "rb") as handle:
                    return read_part(handle.read().decode())
            except (OSError, LookupError, TypeError, ValueError, AttributeError):
                pass  # missing, or of an unexpected shape: botocore reads the whole, or says what is wrong
        return super()._load_file(full_path, open_method)  # type: ignore[misc] # not in the stubs, which list only public methods


def service(text: str) -> dict[str, Any]:
    """Read a service model: the used operations, and the shapes that they refer to. Raises LookupError, ValueError."""
    places, _ = _walk(text, 0, ({"operations", "shapes"}, ()))
    model = {key: _value(text, place) for key, place in places.items() if isinstance(place, int)}
    operations = {name: _value(text, places["operations"][name]) for name in _OPERATIONS}
    shapes: dict[str, Any] = {}
    missing = set(_shape_names(operations))
    while missing:
        name = missing.pop()
        shapes[name] = _value(text, places["shapes"][name])
        missing |= set(_shape_names(shapes[name])) - shapes.keys()
    return {**model, "operations": operations, "shapes": shapes}


def endpoints(text: str) -> dict[str, Any]:
    """Read the list of endpoints with the used services only. Raises LookupError, ValueError."""
    places, _ = _walk(text, 0, ({"partitions"}, {"services"}, ()))
    endpoint_list = {key: _value(text, place) for key, place in places.items() if isinstance(place, int)}
    endpoint_list["partitions"] = []
    for members in places["partitions"]:
        partition = {key: _value(text, place) for key, place in members.items() if isinstance(place, int)}
        used = {name: _value(text, place) for name, place in members["services"].items() if name in _SERVICES}
        endpoint_list["partitions"].append({**partition, "services": used})
    return endpoint_list


_PARTIALLY_READ: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "/s3/2006-03-01/service-2.json": service,
    "/s3/2006-03-01/service-2.json.gz": service,
    "/endpoints.json": endpoints,
    "/endpoints.json.gz": endpoints,
}


def _walk(text: str, at: int, enter: tuple[Any, ...]) -> tuple[Any, int]:
    """Return the places in the object, or list of objects, at offset `at`, and the offset of its end.

    enter: for each level, the members to walk in turn. Raises LookupError, ValueError.
    """
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
        raise ValueError(f"no JSON object at offset {at}")
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
    """Return the offset after the white space at `at`."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _next(text: str, at: int) -> int:
    """Return the offset of the next member or item, or of the bracket that closes them."""
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _value(text: str, place: int) -> Any:
    return _without_documentation(_scan(text, place)[0])


def _without_documentation(value: Any) -> Any:
    """Empty the documentation, which is most of the text; botocore needs the member to be there."""
    if isinstance(value, dict):
        return {
            key: "" if key in _DOCUMENTATION and isinstance(member, str) else _without_documentation(member)
            for key, member in value.items()
        }
    return [_without_documentation(item) for item in value] if isinstance(value, list) else value


def _shape_names(value: Any) -> Iterator[str]:
    """Yield the names of the shapes that a description refers to, some of them more than once."""
    if isinstance(value, dict):
        if isinstance(name := value.get("shape"), str):
            yield name
        for member in value.values():
            yield from _shape_names(member)
    elif isinstance(value, list):
        for item in value:
            yield from _shape_names(item)
