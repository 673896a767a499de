"""Fixtures of the origin's tests."""

from __future__ import annotations

from tests.engine.conftest import clean_aws, make_fetcher, origin, quick

__all__ = ["clean_aws", "make_fetcher", "origin", "quick"]
