"""Payloads are those of the SDK's own converter, byte for byte, and read back alike, also by another build."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter

from kube_cache import contracts
from kube_cache.contracts.common import Phase, PodRef, PodView
from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.temporal.payloads import CONVERTER

OURS, SDKS = CONVERTER.payload_converter, DataConverter.default.payload_converter
MODULES = [
    importlib.import_module(f"{contracts.__name__}.{one.name}") for one in pkgutil.iter_modules(contracts.__path__)
]
CONTRACTS = {
    one
    for module in MODULES
    for one in vars(module).values()
    if isinstance(one, type) and dataclasses.is_dataclass(one)
}


def example(hint: Any) -> Any:
    """A value of the type that differs from its default."""
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{field.name: example(hints[field.name]) for field in dataclasses.fields(hint)})  # type: ignore[operator]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return [example(arguments[0])] * 2
    if origin is dict:
        return {"key": example(arguments[1])}
    if arguments:
        return example(next(each for each in arguments if each is not type(None)))
    return {str: "words", int: 3, float: 1.5, bool: True}.get(hint) or next(iter(hint))


@pytest.mark.parametrize(
    "contract", sorted(CONTRACTS, key=lambda one: one.__qualname__), ids=lambda one: one.__qualname__
)
def test_each_contract_is_written_and_read_as_by_the_sdk(contract: type) -> None:
    value = example(contract)

    written = OURS.to_payloads([value])

    assert written == SDKS.to_payloads([value])
    assert OURS.from_payloads(written, [contract]) == SDKS.from_payloads(written, [contract]) == [value]


@pytest.mark.parametrize("value", [None, b"bytes", "text", 7, [PodRef("a", "b", "c")], {"key": Phase.DONE}])
def test_what_is_no_contract_is_written_as_by_the_sdk(value: Any) -> None:
    assert OURS.to_payloads([value]) == SDKS.to_payloads([value])


def test_unknown_fields_are_ignored_and_missing_ones_get_their_defaults() -> None:
    said = {"pod": {"namespace": "ml", "name": "one", "uid": "u", "later": 1}, "view": {"dataset": "s3://b/p"}}

    assert read(WarmPodInput, said) == WarmPodInput(PodRef("ml", "one", "u"), PodView("s3://b/p"))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        pytest.param(PodRef, {"namespace": "ml", "name": 3, "uid": "u"}, id="a number for a text"),
        pytest.param(PodRef, {"namespace": "ml"}, id="a field without default is missing"),
        pytest.param(PodRef, "ml/one", id="a text for a dataclass"),
        pytest.param(PodView, {"gated": "yes"}, id="a text for a truth value"),
    ],
)
def test_a_payload_of_another_shape_is_refused_as_by_the_sdk(hint: type, value: Any) -> None:
    for converter in (OURS, SDKS):
        with pytest.raises(TypeError):
            read(hint, value, converter)


def read(hint: type, value: Any, converter: Any = OURS) -> Any:
    payload = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())
    return converter.from_payloads([payload], [hint])[0]
