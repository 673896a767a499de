"""The part of botocore's data that is loaded describes the used operations exactly as the whole does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.loaders import Loader
from botocore.session import Session

from kube_cache.origin import botocore_data

DATA = Path(botocore.__file__).parent / "data"
CALLS: dict[str, dict[str, Any]] = {
    "head_object": {"Bucket": "b", "Key": "k", "VersionId": "v", "ChecksumMode": "ENABLED", "PartNumber": 3},
    "get_object": {"Bucket": "b", "Key": "a b/é", "Range": "bytes=1-2", "IfMatch": '"e"', "RequestPayer": "requester"},
    "get_object_attributes": {"Bucket": "b", "Key": "k", "ObjectAttributes": ["ObjectParts"], "MaxParts": 1000},
    "list_objects_v2": {"Bucket": "b", "Prefix": "p/", "ContinuationToken": "t"},
    "head_bucket": {"Bucket": "b"},
}
REGIONS = ["us-east-1", "cn-north-1", "nowhere-9"]


def sent(loader: Loader | None, region: str, style: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return (method, URL) of each request that a client would have sent; each is stopped before it leaves."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    session = Session()
    if loader is not None:
        session.register_component("data_loader", loader)
    config = Config(s3={"addressing_style": style}, retries={"total_max_attempts": 1})
    client = session.create_client("s3", region_name=region, config=config)
    seen: list[tuple[str, str]] = []

    def stop(request: Any, **_: Any) -> None:
        seen.append((request.method, request.url))
        raise EndpointConnectionError(endpoint_url=request.url)

    client.meta.events.register("before-send.s3", stop)
    for call, arguments in CALLS.items():
        with pytest.raises(EndpointConnectionError):
            getattr(client, call)(**arguments)
    client.close()
    return seen


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("region", REGIONS)
def test_every_request_is_the_same(region: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sent(None, region, style, monkeypatch)
    assert len(whole) == len(CALLS)
    assert sent(botocore_data.loader(), region, style, monkeypatch) == whole


def test_the_shapes_are_the_same_but_for_their_documentation() -> None:
    text = gzip.decompress((DATA / "s3/2006-03-01/service-2.json.gz").read_bytes()).decode()
    whole, part = json.loads(text), botocore_data.service(text)
    assert part["metadata"] == whole["metadata"]
    for name, shape in part["shapes"].items():
        assert shape == botocore_data._without_documentation(whole["shapes"][name])
    assert len(part["shapes"]) < len(whole["shapes"]) / 3


def test_the_endpoints_that_are_kept_are_the_same() -> None:
    text = (DATA / "endpoints.json").read_text()
    whole, part = json.loads(text), botocore_data.endpoints(text)
    for left, right in zip(whole["partitions"], part["partitions"], strict=True):
        assert {**left, "services": None} == {**right, "services": None}
        assert right["services"].items() <= left["services"].items()
        assert "s3" in right["services"]


@pytest.mark.parametrize("text", ["[]", "{", '{"operations": 1}', '{"operations": {}, "shapes": {}}', ""])
def test_an_unexpected_shape_raises(text: str) -> None:
    with pytest.raises((LookupError, ValueError, TypeError, AttributeError)):
        botocore_data.service(text)


def test_a_file_of_an_unexpected_shape_is_left_to_botocore(tmp_path: Path) -> None:
    folder = tmp_path / "s3" / "2006-03-01"
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text('{"version": "3.0", "operations": {}}')
    loader = botocore_data.loader()
    model = loader.file_loader.load_file(str(folder / "service-2"))
    assert model == {"version": "3.0", "operations": {}}
    assert loader.file_loader.load_file(str(folder / "none")) is None
