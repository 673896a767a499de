"""What the answers of object storage to the engine's requests mean."""

from __future__ import annotations

import pytest

from kube_cache.dataset.source import Answer
from kube_cache.origin import answers


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3.0), ("3600", 20.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("", 0.0)]
)
def test_retry_after(text: str, seconds: float) -> None:
    assert answers.retry_after_s(Answer(503, {"retry-after": text})) == seconds
